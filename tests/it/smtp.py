"""A mail server for the tests: aiosmtpd, with STARTTLS or TLS from the first byte, and a login.

Prints its port, then one line of JSON for each mail. Arguments: plain, starttls or tls; then any of: login (which is
pgkeep / sesame), slow (never answers DATA), gone (takes the mail and hangs up without a word), refuse=ADDRESS,
later=ADDRESS (refused for now, the first time), port=NUMBER (otherwise any); a certificate and a key with cert=FILE and
key=FILE.
"""

import asyncio
import json
import ssl
import sys
from email import message_from_bytes, policy

from aiosmtpd.smtp import SMTP, AuthResult

mode, words = sys.argv[1], sys.argv[2:]
options = dict(word.partition("=")[::2] for word in words)


class Handler:
    async def handle_RCPT(self, server, session, envelope, address, rcpt_options):
        if address == options.get("refuse"):
            return "550 5.1.1 nobody of that name"
        if address == options.get("later"):
            del options["later"]
            return "451 4.7.1 come back later"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server, session, envelope):
        if "slow" in options:
            await asyncio.sleep(3600)
        mail = message_from_bytes(envelope.content, policy=policy.default)
        print(
            json.dumps(
                {
                    "to": envelope.rcpt_tos,
                    "from": envelope.mail_from,
                    "subject": mail["Subject"],
                    "id": mail["Message-ID"],
                    "headers": sorted(mail.keys()),
                    "type": mail.get_content_type(),
                    "text": mail.get_content(),
                    "tls": session.ssl is not None or mode == "tls",
                    "login": bool(session.authenticated),
                }
            ),
            flush=True,
        )
        if "gone" in options:
            server.transport.abort()
        return "250 OK"


def authenticate(server, session, envelope, mechanism, data):
    return AuthResult(success=(data.login, data.password) == (b"pgkeep", b"sesame"), handled=False)


async def main():
    context = None
    if mode != "plain":
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(options["cert"], options["key"])

    def protocol():
        return SMTP(
            Handler(),
            tls_context=context if mode == "starttls" else None,
            require_starttls=mode == "starttls",
            auth_required="login" in options,
            auth_require_tls=mode == "starttls",
            authenticator=authenticate if "login" in options else None,
        )

    loop = asyncio.get_running_loop()
    port = int(options.get("port", 0))
    server = await loop.create_server(protocol, "127.0.0.1", port, ssl=context if mode == "tls" else None)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


asyncio.run(main())
