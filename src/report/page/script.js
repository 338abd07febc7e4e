"use strict";
(function () {
  // How old the page is: a page that nobody renews any more must not look fresh.
  var made = document.querySelector("#made"), age = document.querySelector("#age");
  function tell() {
    var minutes = Math.floor((Date.now() - Date.parse(made.dateTime)) / 60000);
    if (!(minutes >= 1)) { age.textContent = ""; return; }
    var text = minutes < 120 ? minutes + " min ago" : Math.floor(minutes / 60) + " h ago";
    age.textContent = minutes > 20 ? text + ": is this page still being renewed?" : text;
    age.className = minutes > 20 ? "stale" : "";
  }
  tell();
  setInterval(tell, 30000);

  function value(row, column) {
    var cell = row.cells[column];
    return cell.hasAttribute("data-v") ? cell.getAttribute("data-v") : cell.textContent.trim();
  }
  function compare(one, other) {
    var left = parseFloat(one), right = parseFloat(other);
    if (/^-?[\d.]+$/.test(one) && /^-?[\d.]+$/.test(other)) { return left - right; }
    return one < other ? -1 : one > other ? 1 : 0;
  }
  function sort(table, head, column) {
    var down = head.getAttribute("aria-sort") === "ascending", body = table.tBodies[0];
    Array.prototype.forEach.call(table.tHead.rows[0].cells, function (cell) { cell.removeAttribute("aria-sort"); });
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    var rows = Array.prototype.slice.call(body.rows);
    rows.sort(function (one, other) {
      var order = compare(value(one, column), value(other, column));
      return down ? -order : order;
    });
    rows.forEach(function (row) { body.appendChild(row); });
  }
  function filter(table, said, text) {
    var shown = 0, words = text.toLowerCase().split(/\s+/);
    Array.prototype.forEach.call(table.tBodies[0].rows, function (row) {
      var content = row.textContent.toLowerCase();
      row.hidden = !words.every(function (word) { return content.indexOf(word) >= 0; });
      shown += row.hidden ? 0 : 1;
    });
    said.textContent = text ? " " + shown + " of " + table.tBodies[0].rows.length : "";
  }
  document.querySelectorAll("table.data").forEach(function (table) {
    if (table.tBodies[0].rows.length < 2) { return; }
    Array.prototype.forEach.call(table.tHead.rows[0].cells, function (head, column) {
      var button = document.createElement("button");
      button.type = "button";
      button.textContent = head.textContent;
      head.textContent = "";
      head.appendChild(button);
      button.addEventListener("click", function () { sort(table, head, column); });
    });
    if (table.tBodies[0].rows.length < 9) { return; }
    var label = document.createElement("label"), input = document.createElement("input");
    var said = document.createElement("span");
    said.setAttribute("role", "status");
    input.type = "search";
    label.textContent = "Only rows with";
    label.appendChild(input);
    var line = document.createElement("p");
    line.className = "filter";
    line.appendChild(label);
    line.appendChild(said);
    input.addEventListener("input", function () { filter(table, said, input.value.trim()); });
    var box = table.parentNode;
    box.parentNode.insertBefore(line, box);
  });
})();
