"use strict";
// The tables are whole without this script. It moves rows, hides what was not asked for, and opens panels.
// Every text that came from a record is set as textContent.

const data = JSON.parse(document.getElementById("data").textContent);
const $ = (id) => document.getElementById(id);
const collator = new Intl.Collator("en", { numeric: true });

function el(tag, text, attributes = {}) {
  const made = document.createElement(tag);
  if (text !== undefined) made.textContent = text;
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
}

function say(text) { $("said").textContent = text; }

// --- tables -----------------------------------------------------------------------------------------------------

const tables = [...document.querySelectorAll("[data-table]")].map((box) => {
  const told = data.tables[Number(box.dataset.table)];
  const rows = [...box.querySelectorAll("tbody tr")];
  const order = rows.map((_, k) => k);
  const table = { box, told, rows, order, body: box.querySelector("tbody"), kept: order, all: false, furnished: new Set() };
  table.sight = order.filter((k) => !rows[k].hidden);
  const firstNumber = box.querySelectorAll("thead [data-label]").length + (told.ranks ? 1 : 0);
  table.cell = (k, c) => rows[k].cells[firstNumber + c];
  table.text = told.rows.map((row, k) => [told.title, told.section, row.name, row.source, ...labels(rows[k])].join(" ").toLowerCase());
  return table;
});

function labels(row) { return [row.querySelector(".name"), ...row.querySelectorAll(".label")].map((c) => c.textContent); }

// Only rows that come or go are touched: of two thousand, two hundred are in sight.
function show(table) {
  const kept = new Set(table.kept);
  const left = table.order.filter((k) => kept.has(k));
  const sight = table.all ? left : left.slice(0, data.most);
  const now = new Set(sight);
  for (const k of table.sight) if (!now.has(k)) table.rows[k].hidden = true;
  for (const k of sight) {
    if (!table.furnished.has(k)) furnish(table, table.rows[k], k);
    table.rows[k].hidden = false;
  }
  table.body.prepend(...sight.map((k) => table.rows[k]));
  table.sight = sight;
  const more = table.box.querySelector("[data-more]");
  more.hidden = sight.length === left.length;
  more.textContent = `Show all ${left.length.toLocaleString("en")} rows`;
  table.box.hidden = left.length === 0;
}

function sort(table, head, value, better) {
  const was = head.getAttribute("aria-sort");
  const first = better === "higher" ? "descending" : "ascending";
  const next = was === "none" ? first : was === "ascending" ? "descending" : "ascending";
  for (const other of table.box.querySelectorAll("[aria-sort]")) other.setAttribute("aria-sort", "none");
  head.setAttribute("aria-sort", next);
  const sign = next === "ascending" ? 1 : -1;
  const keys = table.rows.map((_, k) => value(k));
  const compare = (a, b) => (typeof a === "number" ? a - b : collator.compare(a, b));
  table.order.sort((i, j) => {
    if (keys[i] === null || keys[j] === null) return (keys[i] === null) - (keys[j] === null) || i - j;
    return sign * compare(keys[i], keys[j]) || i - j;
  });
  rank(table, head.dataset.column);
  show(table);
  say(`${table.told.title}: sorted by ${head.dataset.name}, ${next}`);
}

function rank(table, column) {
  const ranks = table.told.ranks && table.told.ranks[column];
  if (!ranks) return;
  table.box.querySelector("[data-rank-of]").textContent = table.told.columns[column].name;
  table.rows.forEach((row, k) => { row.querySelector(".rank").textContent = ranks[k] || "–"; });
}

function button(head, action) {
  const text = head.querySelector(".head");
  const made = el("button", undefined, { type: "button" });
  head.dataset.name = text.textContent.replace(/\s+/g, " ").trim();
  made.append(...text.childNodes);
  text.append(made);
  head.setAttribute("aria-sort", "none");
  made.addEventListener("click", action);
}

for (const table of tables) {
  for (const head of table.box.querySelectorAll("thead th")) {
    if (head.dataset.column !== undefined) {
      const c = Number(head.dataset.column);
      const value = (k) => (table.told.rows[k].cells[c] ? table.told.rows[k].cells[c].v : null);
      button(head, () => sort(table, head, value, table.told.columns[c].better));
    } else if (head.dataset.label !== undefined) {
      const value = (k) => labels(table.rows[k])[Number(head.dataset.label)];
      button(head, () => sort(table, head, value, ""));
    }
  }
  table.box.querySelector("[data-more]").addEventListener("click", () => { table.all = true; show(table); });
  show(table);
}

// Numbers become buttons when their row first comes into sight: ten thousand at once would be slow.
function furnish(table, row, k) {
  table.furnished.add(k);
  const name = row.querySelector(".name");
  const pick = el("input", undefined, { type: "checkbox", "aria-label": `Compare ${table.told.rows[k].name}` });
  pick.addEventListener("change", () => choose(table, k, pick));
  name.prepend(pick);
  table.told.rows[k].cells.forEach((cell, c) => {
    if (!cell) return;
    const place = table.cell(k, c).querySelector(".n");
    const made = el("button", undefined, { type: "button", tabindex: "-1" });
    made.append(...place.childNodes);
    place.append(made);
  });
  stop(row);
}

// The first number in sight is its row's stop of the tab key.
function stop(row) {
  for (const number of row.querySelectorAll("td .n button")) number.tabIndex = -1;
  const first = row.querySelector("td:not([hidden]) .n button");
  if (first) first.tabIndex = 0;
}

document.addEventListener("click", (event) => {
  const number = event.target.closest("td .n button");
  if (!number) return;
  const [table, k, c] = whereIs(number);
  details(table, k, c);
});

function whereIs(inner) {
  const cell = inner.closest("td"), row = cell.parentElement;
  const table = tables.find((t) => t.body === row.parentElement);
  const k = Number(row.dataset.row);
  return [table, k, table.told.columns.findIndex((_, c) => table.cell(k, c) === cell)];
}

// One stop of the tab key a row; the arrows go on from there.
document.addEventListener("keydown", (event) => {
  const step = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
  const from = step && event.target.closest("td .n button");
  if (!from) return;
  event.preventDefault();
  const cell = from.closest("td");
  let row = cell.parentElement, at = cell.cellIndex, to = null;
  while (!to) {
    if (step[0]) row = step[0] < 0 ? row.previousElementSibling : row.nextElementSibling;
    at += step[1];
    if (!row || !row.cells[at]) return;
    to = row.hidden || row.cells[at].hidden ? null : row.cells[at].querySelector(".n button");
  }
  to.focus();
  to.scrollIntoView({ block: "nearest", inline: "nearest" });
});

// --- filters and columns ----------------------------------------------------------------------------------------

const selects = [...document.querySelectorAll("select[data-key]")];
const metrics = [...document.querySelectorAll("input[data-metric]")];

function filter() {
  const words = $("find").value.toLowerCase().split(/\s+/).filter(Boolean);
  const asked = selects.filter((s) => s.value).map((s) => [s.dataset.key, s.value]);
  let left = 0, all = 0;
  for (const table of tables) {
    table.kept = table.order.filter((k) =>
      words.every((w) => table.text[k].includes(w)) && asked.every(([key, v]) => table.told.rows[k][key] === v));
    left += table.kept.length;
    all += table.rows.length;
    show(table);
  }
  for (const section of document.querySelectorAll("main > section")) {
    section.hidden = ![...section.querySelectorAll("[data-table]")].some((box) => !box.hidden);
  }
  $("nothing").hidden = left > 0;
  say(`${left.toLocaleString("en")} of ${all.toLocaleString("en")} rows`);
}

function columns() {
  const shown = new Set(metrics.filter((m) => m.checked).map((m) => m.dataset.metric));
  for (const table of tables) {
    table.told.columns.forEach((column, c) => {
      const hidden = !shown.has(column.metric), head = table.box.querySelector(`[data-column="${c}"]`);
      if (head.hidden === hidden) return;
      head.hidden = hidden;
      table.rows.forEach((_, k) => { table.cell(k, c).hidden = hidden; });
    });
    for (const k of table.furnished) stop(table.rows[k]);
  }
  say(`${shown.size} of ${metrics.length} metrics shown`);
}

function reset() {
  $("find").value = "";
  for (const s of selects) s.value = "";
  for (const m of metrics) m.checked = m.defaultChecked;
  columns();
  filter();
}

$("tools").addEventListener("submit", (event) => event.preventDefault());
$("find").addEventListener("input", filter);
selects.forEach((s) => s.addEventListener("change", filter));
metrics.forEach((m) => m.addEventListener("change", columns));
$("clear").addEventListener("click", reset);
$("again").addEventListener("click", () => { reset(); $("find").focus(); });
document.addEventListener("keydown", (event) => {
  const open = document.querySelector(".choose[open]");
  if (event.key === "Escape" && open) { open.open = false; open.querySelector("summary").focus(); }
});
document.addEventListener("click", (event) => {
  const open = document.querySelector(".choose[open]");
  if (open && !open.contains(event.target)) open.open = false;
});

// --- what a number was made from --------------------------------------------------------------------------------

function open(title, ...parts) {
  $("panel-h").textContent = title;
  $("panel-body").replaceChildren(...parts);
  $("panel").showModal();
}
$("close").addEventListener("click", () => $("panel").close());

function listed(pairs) {
  const list = el("dl");
  for (const [name, value] of pairs) if (value !== "" && value !== null && value !== undefined) list.append(el("dt", name), el("dd", String(value)));
  return list;
}

function details(table, k, c) {
  const row = table.told.rows[k], cell = row.cells[c], column = table.told.columns[c];
  const parts = [el("p", table.cell(k, c).querySelector(".n").textContent.trim(), { class: "big" }), el("p", `${column.name} · ${table.told.title}`, { class: "about" })];
  if (cell.why) parts.push(listed([["status", cell.why]]));
  if (row.source) parts.push(listed([["source", row.source]]));
  if (cell.v !== null && !row.source) parts.push(listed([["value", cell.v], [cell.made.length > 1 && !cell.avg ? "standard deviation over seeds" : "standard error", cell.s]]));
  if (cell.cmd !== undefined) parts.push(el("h3", "Made by"), el("pre", data.strings[cell.cmd], { tabindex: "0", "aria-label": "Command that makes it" }));
  for (const name of cell.made) {
    const made = data.records[name], at = (field) => data.strings[made[field]];
    parts.push(el("h3", `Record ${name.slice(0, 12)}`), listed([
      ["status", made.status + (made.reason ? `: ${made.reason}` : "")], ["seed", made.seed], ["commit", at("commit")], ["recorded", made.recorded],
      ["machine", at("machine")], ["versions", at("versions")], ["seconds", made.seconds],
      ["whole", `bench show ${name.slice(0, 12)} --results ${table.told.folder}`],
    ]));
  }
  open(row.name, ...parts);
}

// --- two rows ---------------------------------------------------------------------------------------------------

let chosen = [];

function choose(table, k, pick) {
  chosen = pick.checked ? [...chosen, { table, k, pick }] : chosen.filter((one) => one.pick !== pick);
  if (chosen.length > 2) chosen.shift().pick.checked = false;
  for (const t of tables) for (const row of t.body.querySelectorAll(".picked")) row.classList.remove("picked");
  for (const one of chosen) one.table.rows[one.k].classList.add("picked");
  const names = chosen.map((one) => one.table.told.rows[one.k].name);
  $("chosen").hidden = !names.length;
  $("compare").disabled = names.length < 2;
  $("chosen-names").textContent = ["No row is chosen", `${names[0]}: choose one more row`, names.join(" and ")][names.length];
  say($("chosen-names").textContent);
}

$("drop").addEventListener("click", () => { for (const one of [...chosen]) { one.pick.checked = false; choose(one.table, one.k, one.pick); } });
$("compare").addEventListener("click", () => compare(...chosen));

function interval(table, a, b, c) {
  const [i, j] = a < b ? [a, b] : [b, a];
  const found = table.told.pairs && table.told.pairs[`${i},${j}`] && table.told.pairs[`${i},${j}`][c];
  if (!found) return null;
  const [value, low, high, n, unit, seeds] = found;
  const counted = data.strings[unit] === "count";
  const over = counted ? "" : `${seeds > 1 ? `${seeds} seeds, ` : ""}${n.toLocaleString("en")} ${data.strings[unit]}`;
  if (a < b) return { value, low, high, over };
  return table.told.columns[c].ratio ? { value: 1 / value, low: 1 / high, high: 1 / low, over } : { value: -value, low: -high, high: -low, over };
}

function changed(ratio, value) {
  if (value === (ratio ? 1 : 0)) return "the same";
  return ratio ? `×${value.toFixed(4)}` : `${value < 0 ? "−" : "+"}${Number(Math.abs(value).toPrecision(4))}`;
}

function compare(a, b) {
  const first = a.table.told.rows[a.k], other = b.table.told.rows[b.k];
  const grid = el("table"), head = el("tr"), body = el("tbody");
  for (const name of ["metric", "second against first", "95% interval, paired", first.name, other.name]) head.append(el("th", name, { scope: "col" }));
  const apart = [];
  a.table.told.columns.forEach((column, c) => {
    const d = b.table.told.columns.findIndex((x) => x.name === column.name);
    const one = first.cells[c], two = d < 0 ? null : other.cells[d];
    if (!one && !two) return;
    if (!one || !two) { apart.push(column.name); return; }
    const line = el("tr"), text = (t, k, i) => t.cell(k, i).querySelector(".n").textContent.trim();
    const known = one.v !== null && two.v !== null, ratio = column.ratio && one.v > 0 && two.v > 0;
    const found = known && a.table === b.table ? interval(a.table, a.k, b.k, c) : null;
    const moved = !known ? null : found ? found.value : ratio ? two.v / one.v : two.v - one.v;
    const change = el("td", known ? changed(ratio, moved) : "–", { class: "num" });
    const sure = found && (found.low > (ratio ? 1 : 0) || found.high < (ratio ? 1 : 0));
    if (sure && column.better) {
      const better = (moved < (ratio ? 1 : 0)) === (column.better === "lower");
      change.classList.add(better ? "better" : "worse");
      change.append(better ? " better" : " worse");
    }
    line.append(
      el("th", column.name, { scope: "row" }), change,
      el("td", found ? (found.over ? `${changed(ratio, found.low)} to ${changed(ratio, found.high)}; ${found.over}` : "counted, without noise") : "no paired interval", { class: "interval" }),
      el("td", text(a.table, a.k, c), { class: "num" }), el("td", text(b.table, b.k, d), { class: "num" }),
    );
    body.append(line);
  });
  grid.append(el("caption", "A difference is called better or worse where its interval excludes none at all."), el("thead"), body);
  grid.tHead.append(head);
  const region = el("div", undefined, { class: "scroll", role: "region", tabindex: "0", "aria-label": "Two rows, metric by metric" });
  region.append(grid);
  const parts = body.rows.length ? [region] : [el("p", "The two have no metric under one protocol in common.")];
  if (apart.length) parts.push(el("p", `Measured of one of them alone: ${apart.join(", ")}.`, { class: "about" }));
  if (a.table !== b.table) parts.push(el("p", "The rows stand in different tables: nothing was paired between them.", { class: "about" }));
  open(`${other.name} against ${first.name}`, ...parts);
}

// --- light and dark ---------------------------------------------------------------------------------------------

const root = document.documentElement, dark = matchMedia("(prefers-color-scheme: dark)");
function isDark() { return (root.dataset.theme || (dark.matches ? "dark" : "light")) === "dark"; }
function name() { $("theme").textContent = isDark() ? "Light" : "Dark"; }
$("theme").addEventListener("click", () => { root.dataset.theme = isDark() ? "light" : "dark"; name(); });
dark.addEventListener("change", name);
name();

$("theme").hidden = $("tools").hidden = false;
filter();
