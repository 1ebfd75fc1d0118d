"use strict";
// The tables are complete without this script. It sorts and filters rows, and opens panels.
// Text that came from a record is always set as textContent.

const data = JSON.parse(document.getElementById("data").textContent);
const $ = (id) => document.getElementById(id);
const collator = new Intl.Collator("en", { numeric: true });

function el(tag, text, attributes = {}) {
  const element = document.createElement(tag);
  if (text !== undefined) element.textContent = text;
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
}

function say(text) { $("said").textContent = text; }

// --- tables -----------------------------------------------------------------------------------------------------

const tables = [...document.querySelectorAll("[data-table]")].map((box) => {
  const content = data.tables[Number(box.dataset.table)];
  const rows = [...box.querySelectorAll("tbody tr")];
  const parts = Map.groupBy(rows.keys(), (k) => content.rows[k].part);
  const below = (k) => [k, ...(parts.get(k) || []).flatMap(below)];
  const whole = parts.get(undefined) || [], order = whole.flatMap(below);
  const table = { box, data: content, rows, order, whole, parts, body: box.querySelector("tbody"), matches: whole, all: false, interactive: new Set(), sorters: new Map() };
  table.visible = order.filter((k) => !rows[k].hidden);
  const firstNumber = box.querySelectorAll("thead [data-label]").length + (content.ranks ? 1 : 0);
  table.cell = (k, c) => rows[k].cells[firstNumber + c];
  table.off = false;
  table.text = content.rows.map((row, k) => [content.title, content.section, row.name, row.source, ...labels(rows[k])].join(" ").toLowerCase());
  return table;
});

function labels(row) { return [row.querySelector(".name"), ...row.querySelectorAll(".label")].map((c) => c.textContent); }

// Touches only the rows that appear or disappear: of two thousand, two hundred are visible.
function show(table) {
  const matches = new Set(table.matches);
  const sorted = table.order.filter((k) => matches.has(k));
  const visible = table.all ? sorted : sorted.slice(0, data.max_visible_rows);
  const now = new Set(visible);
  for (const k of table.visible) if (!now.has(k)) table.rows[k].hidden = true;
  for (const k of visible) {
    if (!table.interactive.has(k)) makeInteractive(table, table.rows[k], k);
    table.rows[k].hidden = false;
  }
  table.body.prepend(...visible.map((k) => table.rows[k]));
  table.visible = visible;
  const more = table.box.querySelector("[data-more]");
  more.hidden = visible.length === sorted.length;
  more.textContent = `Show all ${sorted.length.toLocaleString("en")} rows`;
  table.box.hidden = table.off || sorted.length === 0;
}

function sort(table, head, value, next) {
  for (const other of table.box.querySelectorAll("[aria-sort]")) other.setAttribute("aria-sort", "none");
  head.setAttribute("aria-sort", next);
  const sign = next === "ascending" ? 1 : -1;
  const keys = table.rows.map((_, k) => value(k));
  const compare = (a, b) => (typeof a === "number" ? a - b : collator.compare(a, b));
  const compareRows = (i, j) => {
    if (keys[i] === null || keys[j] === null) return (keys[i] === null) - (keys[j] === null) || i - j;
    return sign * compare(keys[i], keys[j]) || i - j;
  };
  const sorted = (ks) => ks.toSorted(compareRows).flatMap((k) => [k, ...sorted(table.parts.get(k) || [])]);
  table.order = sorted(table.whole);
  rank(table, head.dataset.column);
  show(table);
  say(`${table.data.title}: sorted by ${head.dataset.name}, ${next}`);
}

// A table's name in the address.
function nameOf(table) { return [table.data.section, table.data.title, table.data.protocol].join(" · "); }

function rank(table, column) {
  const ranks = table.data.ranks && table.data.ranks[column];
  if (!ranks) return;
  table.box.querySelector("[data-rank-of]").textContent = table.data.columns[column].name;
  table.rows.forEach((row, k) => { row.querySelector(".rank").textContent = ranks[k] || "–"; });
}

function button(table, head, value, better) {
  const text = head.querySelector(".head");
  const sorter = el("button", undefined, { type: "button" });
  head.dataset.name = text.textContent.replace(/\s+/g, " ").trim();
  sorter.append(...text.childNodes);
  text.append(sorter);
  head.setAttribute("aria-sort", "none");
  sorter.addEventListener("click", () => {
    const was = head.getAttribute("aria-sort"), first = better === "higher" ? "descending" : "ascending";
    const next = was === "none" ? first : was === "ascending" ? "descending" : "ascending";
    sort(table, head, value, next);
    writeAddress({ table: nameOf(table), sort: head.dataset.name, order: next });
  });
  table.sorters.set(head.dataset.name, (next) => sort(table, head, value, next));
}

for (const table of tables) {
  for (const head of table.box.querySelectorAll("thead th")) {
    if (head.dataset.column !== undefined) {
      const c = Number(head.dataset.column);
      const isText = table.data.columns[c].better === "" && table.data.rows.every((row) => !row.cells[c] || row.cells[c].v === null);
      const value = (k) => (!table.data.rows[k].cells[c] ? null : isText ? table.cell(k, c).textContent : table.data.rows[k].cells[c].v);
      button(table, head, value, table.data.columns[c].better);
    } else if (head.dataset.label !== undefined) {
      const value = (k) => labels(table.rows[k])[Number(head.dataset.label)];
      button(table, head, value, "");
    }
  }
  table.box.querySelector("[data-more]").addEventListener("click", () => { table.all = true; show(table); });
  show(table);
}

// Numbers become buttons when their row is first visible: ten thousand at once would be slow.
function makeInteractive(table, row, k) {
  table.interactive.add(k);
  const name = row.querySelector(".name");
  const pick = el("input", undefined, { type: "checkbox", "aria-label": `Compare ${table.data.rows[k].name}` });
  pick.addEventListener("change", () => choose(table, k, pick));
  name.prepend(pick);
  table.data.rows[k].cells.forEach((cell, c) => {
    if (!cell) return;
    const place = table.cell(k, c).querySelector(".n");
    const opener = el("button", undefined, { type: "button", tabindex: "-1" });
    opener.append(...place.childNodes);
    place.append(opener);
  });
  setTabStop(row);
}

// The tab key stops at a row's first visible number.
function setTabStop(row) {
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
  return [table, k, table.data.columns.findIndex((_, c) => table.cell(k, c) === cell)];
}

// The tab key stops once in each row; the arrow keys move from there.
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

// What the reader looks at stays where it is, while rows above it come and go.
function keepPlace(change) {
  const sections = [...document.querySelectorAll("main > section")], box = (section) => section.getBoundingClientRect();
  const edge = getComputedStyle($("tools")).position === "sticky" ? box($("tools")).bottom : 0, line = edge + innerHeight / 4;
  const at = sections.findIndex((section) => !section.hidden && box(section).bottom > line);
  const before = at < 0 ? 0 : box(sections[at]).top;
  change();
  const now = sections.slice(at).find((section) => !section.hidden) || sections.findLast((section) => !section.hidden);
  if (!now || at < 0) return;
  const reaches = now === sections[at] && before + box(now).height > line;
  scrollBy(0, box(now).top - (reaches ? before : Math.max(before, edge)));
}

function filter() {
  const words = $("find").value.toLowerCase().split(/\s+/).filter(Boolean);
  const conditions = selects.filter((s) => s.value).map((s) => [s.dataset.key, s.value]);
  let left = 0, all = 0, elsewhere = 0;
  for (const table of tables) {
    const folded = !($("unfold") && $("unfold").checked);
    table.matches = (folded ? table.whole : table.order).filter((k) =>
      words.every((w) => table.text[k].includes(w)) && conditions.every(([key, v]) => table.data.rows[k][key] === v));
    if (table.off) elsewhere += table.matches.length;
    else {
      left += table.matches.length;
      all += (folded ? table.whole : table.order).length;
    }
    show(table);
  }
  for (const section of document.querySelectorAll("main > section")) {  // a section whose other protocols match keeps its choice
    section.hidden = !tables.some((table) => table.matches.length && section.contains(table.box));
  }
  $("nothing").hidden = left > 0;
  $("nothing").firstElementChild.textContent = elsewhere ? "No row of these protocols matches the filters. Rows of others do: choose another protocol." : "No row matches the filters.";
  const more = elsewhere && (words.length || conditions.length) ? `; ${elsewhere.toLocaleString("en")} more under other protocols` : "";
  say(`${left.toLocaleString("en")} of ${all.toLocaleString("en")} rows${more}`);
}

// --- the address: what a reader found, filtered and sorted, beside the limits of pick.js ------------------------------

// A link inside the page replaces the address, and what was found stays.
let state = new URLSearchParams(location.hash.includes("=") ? location.hash.slice(1) : "");

// Changes some keys of the address. An empty value leaves its key out.
function writeAddress(values) {
  for (const [key, value] of Object.entries(values)) {
    if (value) state.set(key, value);
    else state.delete(key);
  }
  history.replaceState(null, "", `#${state}`);
}

function writeFilters() {
  writeAddress({ find: $("find").value, ...Object.fromEntries(selects.map((s) => [`rows-${s.dataset.key}`, s.value])) });
}

// A value without an option selects the first one.
function setOption(select, value) {
  select.value = value;
  if (select.selectedIndex < 0) select.value = "";
}

// What the address names and the page does not know is left out.
function readFilters() {
  $("find").value = state.get("find") || "";
  for (const s of selects) setOption(s, state.get(`rows-${s.dataset.key}`) || "");
  const sorted = tables.find((t) => nameOf(t) === state.get("table")), order = state.get("order");
  const choice = sorted && sorted.off && protocols.find((s) => [...s.options].some((o) => o.value === sorted.box.dataset.table));
  if (choice) {
    choice.value = sorted.box.dataset.table;
    showProtocol(choice);
  }
  const sorter = sorted && sorted.sorters.get(state.get("sort"));
  if (sorter && ["ascending", "descending"].includes(order)) sorter(order);
  filter();
  return Boolean(sorter || $("find").value || selects.some((s) => s.value));
}

// Metrics that the reader shows or hides in all tables. The others are as each table has them, some in a part of the tables.
const asked = new Map();

function resetMetrics() {
  asked.clear();
  for (const m of metrics) [m.checked, m.indeterminate] = [m.defaultChecked, m.dataset.mixed !== undefined];
  if (!matchMedia("(max-width: 40rem)").matches) return;
  // Beside the name, a phone has room for the bytes and the quality.
  for (const m of metrics.filter((m) => ["bits_per_parameter", "bits_per_weight"].includes(m.dataset.metric))) {
    asked.set(m.dataset.metric, false);
    [m.checked, m.indeterminate] = [false, false];
  }
}

function columns() {
  for (const table of tables) {
    table.data.columns.forEach((column, c) => {
      const hidden = asked.has(column.metric) ? !asked.get(column.metric) : column.hidden, head = table.box.querySelector(`[data-column="${c}"]`);
      if (head.hidden === hidden) return;
      head.hidden = hidden;
      table.rows.forEach((_, k) => { table.cell(k, c).hidden = hidden; });
    });
    for (const k of table.interactive) setTabStop(table.rows[k]);
  }
  say(`${metrics.filter((m) => m.checked || m.indeterminate).length} of ${metrics.length} metrics shown`);
}

function reset() {
  $("find").value = "";
  for (const s of selects) s.value = "";
  resetMetrics();
  if ($("unfold")) $("unfold").checked = false;
  columns();
  filter();
  writeFilters();
}

if ($("unfold")) $("unfold").addEventListener("change", () => keepPlace(filter));

// Of a model's protocols, one is visible.
function showProtocol(select) {
  for (const option of select.options) {
    const table = tables.find((t) => t.box.dataset.table === option.value);
    table.off = !option.selected;
  }
}
const protocols = [...document.querySelectorAll("select[data-section]")];
for (const select of protocols) {
  select.parentElement.hidden = false;
  select.addEventListener("change", () => {
    showProtocol(select);
    filter();
    writeAddress({ table: nameOf(tables.find((t) => t.box.dataset.table === select.value)), sort: "", order: "" });
  });
  showProtocol(select);
}

document.addEventListener("submit", (event) => event.preventDefault());
$("find").addEventListener("input", () => { keepPlace(filter); writeFilters(); });
selects.forEach((s) => s.addEventListener("change", () => { keepPlace(filter); writeFilters(); }));
addEventListener("hashchange", () => {
  if (!location.hash.includes("=")) return;
  state = new URLSearchParams(location.hash.slice(1));
  readFilters();
});
resetMetrics();
metrics.forEach((m) => m.addEventListener("change", () => { asked.set(m.dataset.metric, m.checked); columns(); }));
$("clear").addEventListener("click", reset);
if ($("filters")) $("filters").addEventListener("click", () => $("filters").setAttribute("aria-expanded", $("filters").ariaExpanded === "false"));
$("again").addEventListener("click", () => { reset(); $("find").focus(); });
document.addEventListener("keydown", (event) => {
  const open = document.querySelector(".choose[open]");
  if (event.key === "Escape" && open) { open.open = false; open.querySelector("summary").focus(); }
});
document.addEventListener("click", (event) => {
  const open = document.querySelector(".choose[open]");
  if (open && !open.contains(event.target)) open.open = false;
});

// --- the records of a number ------------------------------------------------------------------------------------

function open(title, ...parts) {
  $("panel-h").textContent = title;
  $("panel-body").replaceChildren(...parts);
  $("panel").showModal();
}
$("close").addEventListener("click", () => $("panel").close());

function definitions(pairs) {
  const list = el("dl");
  for (const [name, value] of pairs) if (value !== "" && value !== null && value !== undefined) list.append(el("dt", name), el("dd", String(value)));
  return list;
}

function details(table, k, c) {
  const row = table.data.rows[k], cell = row.cells[c], column = table.data.columns[c];
  const parts = [el("p", table.cell(k, c).querySelector(".n").textContent.trim(), { class: "big" }), el("p", `${column.name} · ${table.data.title}`, { class: "about" })];
  if (cell.why) parts.push(definitions([["status", cell.why]]));
  if (row.source) parts.push(definitions([["source", row.source]]));
  const seeds = new Set(cell.r.map((at) => data.records[at].seed).filter((seed) => seed !== undefined)).size;
  if (cell.v !== null && !row.source) parts.push(definitions([["value", cell.v], [seeds > 1 ? "standard deviation over seeds" : "standard error", cell.s]]));
  if (cell.cmd !== undefined) parts.push(el("h3", "Command"), el("pre", data.strings[cell.cmd], { tabindex: "0", "aria-label": "Command that measures it" }));
  for (const place of cell.r) {
    const record = data.records[place], { name } = record, at = (field) => data.strings[record[field]];
    parts.push(el("h3", `Record ${name.slice(0, 12)}`), definitions([
      ["status", record.status + (record.reason ? `: ${record.reason}` : "")], ["seed", record.seed], ["commit", at("commit")], ["recorded", record.recorded],
      ["machine", at("machine")], ["versions", at("versions")], ["seconds", record.seconds], ["credit", at("credit")],
      ["show all", `bench show ${name.slice(0, 12)} --json --results ${at("folder")}`],
    ]));
    const weights = at("weights");
    if (weights !== undefined && weights.startsWith("https://")) parts.push(el("a", "Weights of this row", { href: weights, rel: "noopener noreferrer nofollow" }));
  }
  open(row.name, ...parts);
}

// --- two rows ---------------------------------------------------------------------------------------------------

let selected = [];

function choose(table, k, pick) {
  selected = pick.checked ? [...selected, { table, k, pick }] : selected.filter((one) => one.pick !== pick);
  if (selected.length > 2) selected.shift().pick.checked = false;
  for (const t of tables) for (const row of t.body.querySelectorAll(".picked")) row.classList.remove("picked");
  for (const one of selected) one.table.rows[one.k].classList.add("picked");
  const names = selected.map((one) => one.table.data.rows[one.k].name);
  $("selection").hidden = !names.length;
  $("compare").disabled = names.length < 2;
  $("selection-names").textContent = ["No row is selected", `${names[0]}: select one more row`, names.join(" and ")][names.length];
  say($("selection-names").textContent);
}

$("drop").addEventListener("click", () => { for (const one of [...selected]) { one.pick.checked = false; choose(one.table, one.k, one.pick); } });
$("compare").addEventListener("click", () => compare(...selected));

function interval(table, a, b, c) {
  const [i, j] = a < b ? [a, b] : [b, a];
  const pair = table.data.pairs[`${i},${j}`]?.[c];
  if (!pair) return null;
  const [value, n, unit, seeds, low = value, high = value, noise] = pair;
  const shared = [a, b].some((k) => table.data.rows[k].cells[c].r.length > seeds) ? " over shared seeds" : "";
  const over = data.strings[unit] === "count" ? "" : `${seeds > 1 ? `${seeds} seeds, ` : ""}${n.toLocaleString("en")} ${data.strings[unit]}${noise === undefined ? "" : `; noise between seeds: ${data.strings[noise]}`}`;
  if (a < b) return { value, low, high, over, shared };
  return table.data.columns[c].ratio ? { value: 1 / value, low: 1 / high, high: 1 / low, over, shared } : { value: -value, low: -high, high: -low, over, shared };
}

function formatEnd(ratio, value, unit) {
  if (ratio) return `×${value < 0.1 ? Number(value.toPrecision(4)) : value < 10 ? value.toFixed(4) : Number(value.toPrecision(5)).toLocaleString("en")}`;
  const size = Math.abs(value);
  return `${value < 0 ? "−" : "+"}${size < 1000 ? Number(size.toPrecision(4)) : Math.round(size).toLocaleString("en")}${unit ? ` ${unit}` : ""}`;
}

function formatChange(ratio, value, unit) { return value === (ratio ? 1 : 0) ? "same" : formatEnd(ratio, value, unit); }

function compare(a, b) {
  const first = a.table.data.rows[a.k], other = b.table.data.rows[b.k];
  const grid = el("table"), head = grid.createTHead().insertRow(), body = grid.createTBody();
  const models = a.table.data.title !== b.table.data.title, named = (t, row) => (models ? `${t.data.title}: ${row.name}` : row.name);
  for (const name of ["metric", named(a.table, first), named(b.table, other), "change", "95% interval, paired"]) head.append(el("th", name, { scope: "col" }));
  const unshared = [];
  a.table.data.columns.forEach((column, c) => {
    const d = b.table.data.columns.findIndex((x) => x.name === column.name);
    const one = first.cells[c], two = d < 0 ? null : other.cells[d];
    if (!one && !two) return;
    if (!one || !two) { unshared.push(column.name); return; }
    const line = body.insertRow(), text = (t, k, i) => t.cell(k, i).querySelector(".n").textContent.trim();
    const known = one.v !== null && two.v !== null && !(models && column.metric === "perplexity"), ratio = column.ratio && one.v > 0 && two.v > 0;
    const paired = known && a.table === b.table ? interval(a.table, a.k, b.k, c) : null;
    const moved = !known ? null : paired ? paired.value : ratio ? two.v / one.v : two.v - one.v;
    const change = el("td", known ? formatChange(ratio, moved, column.unit) : "–", { class: "num" });
    const significant = paired && (paired.low > (ratio ? 1 : 0) || paired.high < (ratio ? 1 : 0));
    // Rounding to few bits makes zeros, too, so more zeros are not better. A dense row owes none.
    const neutral = column.metric === "sparsity" && moved > 0 || ["sparsity", "nonzeros"].includes(column.metric) && other.pattern === "dense";
    if (significant && column.better && !neutral) {
      const better = (moved < (ratio ? 1 : 0)) === (column.better === "lower");
      change.classList.add(better ? "better" : "worse");
      change.append(better ? " better" : " worse");
    }
    line.append(
      el("th", column.name, { scope: "row" }), el("td", text(a.table, a.k, c), { class: "num" }), el("td", text(b.table, b.k, d), { class: "num" }), change,
      el("td", paired ? (paired.over ? `${formatEnd(ratio, paired.low, column.unit)} to ${formatEnd(ratio, paired.high, column.unit)}; ${paired.over}` : `exact${paired.shared}: counted, not sampled`) : "no paired interval", { class: "interval" }),
    );
  });
  const names = new Set(a.table.data.columns.map((column) => column.name));
  b.table.data.columns.forEach((column, d) => { if (other.cells[d] && !names.has(column.name)) unshared.push(column.name); });
  for (const line of body.rows) [...line.cells].forEach((cell, c) => { cell.dataset.head = head.cells[c].textContent; });
  grid.createCaption().textContent = "A change is called better or worse only if its interval does not contain \u201cno change\u201d.";
  const parts = body.rows.length ? [scrollBox(grid, "Two rows, metric by metric")] : [el("p", "The two rows have no metric and protocol in common.")];
  if (unshared.length) parts.push(el("p", `Measured for only one of them: ${unshared.join(", ")}.`, { class: "about" }));
  if (a.table !== b.table) parts.push(el("p", "The rows are in different tables, so there are no paired intervals.", { class: "about" }));
  if (models && a.table.data.columns.some((column, c) => column.metric === "perplexity" && first.cells[c])) parts.push(el("p", "Perplexities of two models are not compared, because their tokens may differ.", { class: "about" }));
  open(`${named(b.table, other)} compared with ${named(a.table, first)}`, ...parts);
}

// --- light and dark ---------------------------------------------------------------------------------------------

const root = document.documentElement, dark = matchMedia("(prefers-color-scheme: dark)");
function isDark() { return (root.dataset.theme || (dark.matches ? "dark" : "light")) === "dark"; }
function name() { $("theme").textContent = isDark() ? "Light" : "Dark"; }
$("theme").addEventListener("click", () => { root.dataset.theme = isDark() ? "light" : "dark"; name(); });
dark.addEventListener("change", name);
name();

// --- tables that are wider than the page ------------------------------------------------------------------------

const widths = new ResizeObserver((seen) => seen.forEach(({ target }) => {
  const box = target.closest(".scroll");
  box.classList.toggle("scrolls", box.scrollWidth > box.clientWidth);
}));
document.querySelectorAll(".scroll, .scroll > table").forEach((one) => widths.observe(one));

function scrollBox(table, label) {
  const box = el("div", undefined, { class: "scroll", role: "region", tabindex: "0", "aria-label": label });
  box.append(table);
  widths.observe(box);
  return box;
}

$("theme").hidden = $("tools").hidden = false;
resetMetrics();
if (asked.size) columns();
if (readFilters()) $("results").scrollIntoView();
