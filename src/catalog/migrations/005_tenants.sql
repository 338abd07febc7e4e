-- A tenant's backup that was made before a restore, so that the restore can be undone: never what `latest` means.
ALTER TABLE backups ADD COLUMN before_restore INTEGER NOT NULL DEFAULT 0 CHECK (before_restore IN (0, 1));

-- The newest backup of each tenant.
CREATE INDEX backups_of_tenants ON backups (database, tenant_id, started_at) WHERE tenant_id IS NOT NULL;
