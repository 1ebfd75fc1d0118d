
// --- pick by limits ---------------------------------------------------------------------------------------------
// The rule of bench/reporting/pick.py; a test asks both the same questions.

const share = (value, limit) => (limit ? value / limit - 1 : value > 0 ? Infinity : 0);
const exact = (value) => (value === undefined ? null : [value, null, null]);
const decimals = (value, count) => value.toLocaleString("en", { minimumFractionDigits: count, maximumFractionDigits: count }).replace("-", "−");
const hundredths = (value) => decimals(100 * value, Math.abs(value) >= 10 ? 0 : 1);
const limits = {
  max_bits: { noun: "bits per weight", form: /^(\d+(?:\.\d+)?)$/, scale: 1, bound: (f) => exact(f.bits), excess: share, number: (v) => String(Number(v.toPrecision(4))), unit: "" },
  max_loss: { noun: "loss", form: /^(\d+(?:\.\d+)?)%$/, scale: 0.01, bound: (f) => f.loss || null, excess: (v, x) => (1 + v) / (1 + x) - 1, number: hundredths, unit: "%" },
  max_worst_drop: { noun: "worst task's drop", form: /^(\d+(?:\.\d+)?) ?pp$/, scale: 0.01, bound: (f) => f.drop || null, excess: (v, x) => v - x, number: hundredths, unit: " pp" },
  min_speedup: { noun: "speedup", form: /^(\d+(?:\.\d+)?)[x×]?$/, scale: 1, bound: (f) => f.speedup || null, excess: (v, x) => x / v - 1, number: (v) => decimals(v, 2), unit: "×" },
  budget_tokens: { noun: "tokens to make", form: /^(\d+(?:\.\d+)?)([kMB]?)$/, scale: 1, bound: (f) => exact(f.tokens), excess: share, number: (v) => decimals(v, 0), unit: "" },
};
const suffixes = { "": 1, k: 1e3, M: 1e6, B: 1e9 };

function parseLimit(name, text) {
  const match = limits[name].form.exec(text.trim());
  if (!match || (name === "min_speedup" && Number(match[1]) === 0)) return null;
  const value = Number(match[1]) * limits[name].scale;
  return name === "budget_tokens" ? Math.round(value * suffixes[match[2]]) : value;
}

function checks(facts, wanted) {
  return Object.entries(wanted).map(([name, limit]) => {
    const bound = limits[name].bound(facts), over = (v) => limits[name].excess(v, limit) > 0;
    const unsure = bound !== null && bound[1] !== null && over(bound[1]) !== over(bound[2]);
    return { name, limit, bound, met: bound !== null && !over(bound[0]), unsure };
  });
}

function pick(table, wanted, pattern, quantizer) {
  const column = table.data.quality, sign = table.data.columns[column].better === "higher" ? -1 : 1;
  const rows = table.data.rows.map((row, k) => ({ row, k })).filter(({ row }) => row.facts && (!pattern || row.pattern === pattern) && row.quantizer.startsWith(quantizer));
  const candidates = rows.filter(({ row }) => !row.facts.broken && row.cells[column] && row.cells[column].v !== null).map(({ row, k }) => {
    const all = checks(row.facts, wanted);
    return { row, k, quality: sign * row.cells[column].v, checks: all, failed: all.filter((c) => c.bound && !c.met), unmeasured: all.filter((c) => !c.bound), tied: false };
  });
  const byQuality = (a, b) => a.quality - b.quality || a.k - b.k;
  const meets = candidates.filter((c) => !c.failed.length && !c.unmeasured.length).sort(byQuality);
  const pairOf = (c) => table.data.differ[meets[0].k < c.k ? `${meets[0].k},${c.k}` : `${c.k},${meets[0].k}`];
  const tied = meets.filter((c) => c === meets[0] || pairOf(c) === 0);
  const bits = (c) => c.row.facts.bits ?? Infinity;
  const first = tied.toSorted((a, b) => (bits(a) === bits(b) ? byQuality(a, b) : bits(a) - bits(b)));
  for (const c of first) c.tied = first.length > 1;
  const worst = (c) => Math.max(...c.failed.map((x) => limits[x.name].excess(x.bound[0], x.limit)));
  const failing = candidates.filter((c) => c.failed.length && !c.unmeasured.length).sort((a, b) => (worst(a) === worst(b) ? byQuality(a, b) : worst(a) - worst(b)));
  return {
    candidates: candidates.length, meets: [...first, ...meets.filter((c) => !tied.includes(c))], nearest: failing[0] || null,
    unmeasured: candidates.filter((c) => c.unmeasured.length && !c.failed.length), broken: rows.filter(({ row }) => row.facts.broken).map(({ row }) => row.name),
    uncompared: meets.slice(1).filter((c) => pairOf(c) === undefined).length,
  };
}

// A limit's value, with its interval if it has one. The unit stands once.
function quantity(name, value, low = null, high = null) {
  const { number, unit } = limits[name];
  return number(value) + unit + (low === null ? "" : ` (${number(low)} to ${number(high)})`);
}
function describeCheck(c) { return `${limits[c.name].noun} ${quantity(c.name, ...c.bound)}, limit ${quantity(c.name, c.limit)}`; }
function plural(count, noun) { return `${count.toLocaleString("en")} ${noun}${count === 1 ? "" : "s"}`; }

function names(candidates) {
  const all = candidates.map((c) => c.row.name);
  return all.slice(0, 5).join(", ") + (all.length > 5 ? ` and ${all.length - 5} more` : "");
}

function shortCount(value) {
  for (const [size, letter] of [[1e9, "B"], [1e6, "M"], [1e3, "k"]]) if (value >= size) return `${Number((value / size).toPrecision(3))}${letter}`;
  return String(value);
}

function duration(seconds) {
  const [size, unit] = [[3600, "h"], [60, "min"]].find(([s]) => seconds >= s) || [1, "s"];
  const value = seconds / size;
  return `${value < 10 ? Number(value.toPrecision(2)) : Math.round(value)} ${unit}`;
}

// A name that may be broken where the page's tables break it.
function breakable(name) {
  return name.split(/(?<=[:=])(?=[A-Za-z])/).flatMap((part, k) => (k ? [el("wbr"), part] : [part]));
}

const MAX_ROWS = 10;

function answerTable(answer, shown) {
  const grid = el("table"), head = el("tr"), body = el("tbody"), least = (f) => (f.least ? "≥ " : "");
  const columns = [
    ["bits", (f) => (f.bits === undefined ? "–" : quantity("max_bits", f.bits))],
    ["loss (95% interval)", (f) => (f.loss ? quantity("max_loss", ...f.loss) : "–")],
    ["worst task", (f) => (f.drop ? `${quantity("max_worst_drop", ...f.drop)} ${f.task || ""}`.trim() : "–")],
    ["speedup", (f) => (f.speedup ? quantity("min_speedup", ...f.speedup) : "–")],
    ["tokens", (f) => (f.tokens === undefined ? "–" : least(f) + shortCount(f.tokens))],
    ["time", (f) => (f.seconds === undefined ? "–" : least(f) + duration(f.seconds))],
  ].filter(([, text]) => answer.meets.some((c) => text(c.row.facts) !== "–"));
  head.append(el("th", "row", { scope: "col" }), ...columns.map(([name]) => el("th", name, { scope: "col", class: "num" })));
  for (const c of answer.meets.slice(0, shown)) {
    const line = el("tr"), name = el("th", undefined, { scope: "row" });
    name.append(...breakable(c.row.name));
    if (c.tied) name.append(" ", el("small", "tied"));
    if (c.checks.some((x) => x.unsure)) name.append(" ", el("small", "not sure"));
    line.append(name, ...columns.map(([, text]) => el("td", text(c.row.facts), { class: "num" })));
    body.append(line);
  }
  const top = el("thead");
  top.append(head);
  grid.append(top, body);
  const region = el("div", undefined, { class: "scroll", role: "region", tabindex: "0", "aria-label": "Rows that meet the limits" });
  region.append(grid);
  return region;
}

function showAnswer(answer) {
  const parts = [], count = answer.meets.length;
  parts.push(el("p", count ? `${count} of ${plural(answer.candidates, "compressed row")} ${count === 1 ? "meets" : "meet"} the limits.` : `None of ${plural(answer.candidates, "compressed row")} meets the limits.`, { class: "verdict" }));
  if (count) {
    const first = answer.meets[0], facts = first.row.facts;
    const grid = answerTable(answer, MAX_ROWS), more = el("button", `Show all ${count}`, { type: "button", class: "plain" });
    more.addEventListener("click", () => {
      const all = answerTable(answer, count);
      grid.replaceWith(all);
      more.remove();
      all.focus();
    });
    parts.push(grid, ...(count > MAX_ROWS ? [more] : []));
    if (answer.uncompared) parts.push(el("p", `Not compared with the best in pairs: ${plural(answer.uncompared, "row")}.`));
    for (const c of first.checks.filter((x) => x.unsure)) parts.push(el("p", `Not sure: ${describeCheck(c)}; the interval contains the limit.`));
    const made = el("details"), made_on = facts.device === undefined ? "" : ` Made on ${data.strings[facts.device]}.`;
    made.append(el("summary", `Make and export ${first.row.name}`));
    if (facts.make === undefined) made.append(el("p", "Its records do not say how it was made."));
    else made.append(el("p", `The first row.${made_on}`, { class: "about" }), el("pre", `${data.strings[facts.make]}\n${data.strings[facts.export]}`, { tabindex: "0", "aria-label": "Commands that make and export it" }));
    parts.push(made);
  }
  if (answer.nearest) {
    const may = answer.nearest.failed.some((c) => c.unsure) ? " Its interval contains the limit: it may meet it." : "";
    parts.push(el("p", `Nearest row that fails: ${answer.nearest.row.name}: ${answer.nearest.failed.map(describeCheck).join(", ")}.${may}`));
  }
  if (answer.unmeasured.length) {
    const nouns = [...new Set(answer.unmeasured.flatMap((c) => c.unmeasured.map((x) => limits[x.name].noun)))];
    parts.push(el("p", `Left out, not measured (${nouns.join(", ")}): ${names(answer.unmeasured)}.`));
  }
  if (answer.broken.length) parts.push(el("p", `Left out, their weights break their pattern: ${answer.broken.map((name) => name.replace(" (pattern broken)", "")).join(", ")}.`, { class: "about" }));
  $("picked").replaceChildren(...parts);
}

const sliders = [...document.querySelectorAll("input[data-limit]")];
const texts = {}; // what each limit says, as on the command line; "" is off
const flag = (name) => name.replaceAll("_", "-");

function board() { return tables.find((t) => t.box.dataset.table === $("pick-board").value); }

function fill(select, values, all) {
  const was = select.value;
  select.replaceChildren(el("option", all, { value: "" }), ...values.map((v) => el("option", v, { value: v })));
  select.value = values.includes(was) ? was : "";
}

function choices() {
  const rows = board().data.rows.filter((row) => row.facts);
  const quantizers = [...new Set(rows.map((row) => row.quantizer))];
  const families = [...new Set(quantizers.map((q) => q.split(/[-:]/)[0]))].filter((f) => quantizers.some((q) => q !== f && q.startsWith(f)));
  fill($("pick-pattern"), [...new Set(rows.map((row) => row.pattern))].sort(collator.compare), "any");
  fill($("pick-quant"), [...new Set([...families, ...quantizers])].sort(collator.compare), "any");
}

function wantedLimits() {
  const wanted = {};
  for (const name of Object.keys(limits)) if (texts[name]) wanted[name] = parseLimit(name, texts[name]);
  return wanted;
}

function update(inAddress) {
  for (const slider of sliders) {
    const text = texts[slider.dataset.limit] || "off";
    $(`out-${slider.dataset.limit}`).textContent = text;
    slider.setAttribute("aria-valuetext", text);
  }
  showAnswer(pick(board(), wantedLimits(), $("pick-pattern").value, $("pick-quant").value));
  if (!inAddress) return;
  const { title, protocol } = board().data;
  writeAddress({
    model: title, protocol, pattern: $("pick-pattern").value, quant: $("pick-quant").value,
    ...Object.fromEntries(Object.keys(limits).map((name) => [flag(name), texts[name]])),
  });
}

// The limits that the address names. What it names wrongly is said, and left out.
function readAddress() {
  const state = address();
  if (!state.has("model")) return false;
  const fits = tables.filter((t) => t.data.quality !== null && t.data.title === state.get("model") && (!state.get("protocol") || t.data.protocol === state.get("protocol")));
  if (fits.length) $("pick-board").value = fits[0].box.dataset.table;
  choices();
  $("pick-pattern").value = state.get("pattern") || "";
  $("pick-quant").value = state.get("quant") || "";
  for (const select of [$("pick-pattern"), $("pick-quant")]) if (select.selectedIndex < 0) select.value = "";
  const wrong = fits.length ? [] : ["model"];
  for (const slider of sliders) {
    const name = slider.dataset.limit, stops = slider.dataset.stops.split(" "), text = state.get(flag(name)) || "";
    const value = text ? parseLimit(name, text) : null;
    if (text && value === null) wrong.push(flag(name));
    texts[name] = value === null ? "" : text;
    const at = stops.findIndex((stop) => limits[name].excess(value, parseLimit(name, stop)) <= 0);
    slider.value = value === null || at < 0 ? stops.length : at;
  }
  update(false);
  if (wrong.length) $("picked").prepend(el("p", `The address has an invalid ${wrong.join(", ")}: left out.`, { class: "verdict" }));
  return true;
}

if ($("pick")) {
  $("pick").hidden = $("to-pick").hidden = false;
  $("limits").addEventListener("submit", (event) => event.preventDefault());
  $("pick-board").addEventListener("change", () => { choices(); update(true); });
  for (const select of [$("pick-pattern"), $("pick-quant")]) select.addEventListener("change", () => update(true));
  for (const slider of sliders) slider.addEventListener("input", () => { texts[slider.dataset.limit] = slider.dataset.stops.split(" ")[Number(slider.value)] || ""; update(true); });
  $("no-limits").addEventListener("click", () => {
    for (const slider of sliders) { texts[slider.dataset.limit] = ""; slider.value = slider.max; }
    $("pick-pattern").value = $("pick-quant").value = "";
    update(true);
  });
  addEventListener("hashchange", readAddress);
  choices();
  if (readAddress()) $("pick").scrollIntoView();
  else update(false);
}
