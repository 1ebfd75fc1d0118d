
// --- pick by limits ---------------------------------------------------------------------------------------------
// The rule is bench/reporting/pick.py. Here its results are read: which stop of each slider a row meets, and which rows tie.

const MAX_ROWS = 10;
const sliders = [...document.querySelectorAll("input[data-limit]")];
for (const slider of sliders) slider.stops = slider.dataset.stops.split(" ");
const flag = (slider) => slider.dataset.limit.replaceAll("_", "-");
const isOn = (slider) => Number(slider.value) < slider.stops.length;
const stopOf = (slider) => (isOn(slider) ? slider.stops[Number(slider.value)] : "");

function board() { return tables.find((t) => t.box.dataset.table === $("pick-board").value); }

function pick() {
  const pattern = $("pick-pattern").value, quantizer = $("pick-quant").value, all = board().data.choices.rows;
  const fits = (row) => (!pattern || row.pattern === pattern) && (!quantizer || row.quantizers.includes(quantizer));
  const rows = all.filter(fits);
  const on = [...sliders.keys()].filter((i) => isOn(sliders[i]));
  const unmeasured = (row) => on.filter((i) => row.stops[i] === null);
  const fails = (row) => on.some((i) => row.stops[i] !== null && row.stops[i] > Number(sliders[i].value));
  const meets = rows.filter((row) => !fails(row) && !unmeasured(row).length);
  const tied = meets.length ? meets[0].tied.map((k) => all[k]).filter((row) => meets.includes(row)) : [];
  // A row without a list was compared with no other.
  const later = meets.length ? meets[0].uncompared : [];
  const uncompared = later ? meets.filter((row) => later.includes(all.indexOf(row))).length
    : meets.length - 1;
  return {
    uncompared,
    candidates: rows.length, tied: tied.length > 1 ? tied : [], meets: [...tied, ...meets.filter((row) => !tied.includes(row))],
    broken: board().data.choices.broken.filter(fits).map((row) => row.name.replace(" (pattern broken)", "")),
    unmeasured: rows.filter((row) => unmeasured(row).length && !fails(row)),
    unsure: (row) => on.filter((i) => row.unsure[i].includes(Number(sliders[i].value))).map((i) => sliders[i].dataset.noun),
  };
}

// A name that may be broken where the page's tables break it.
function breakable(name) {
  return name.split(/(?<=[:=])(?=[A-Za-z])/).flatMap((part, k) => (k ? [el("wbr"), part] : [part]));
}

function names(rows) {
  const all = rows.map((row) => row.name);
  return all.slice(0, 5).join(", ") + (all.length > 5 ? ` and ${all.length - 5} more` : "");
}

function answerTable(answer, shown) {
  const grid = el("table"), head = grid.createTHead().insertRow(), body = grid.createTBody(), { headers } = board().data.choices;
  const columns = [...headers.keys()].filter((c) => answer.meets.some((row) => row.cells[c] !== "–"));
  head.append(el("th", "row", { scope: "col" }), ...columns.map((c) => el("th", headers[c], { scope: "col", class: "num" })));
  for (const row of answer.meets.slice(0, shown)) {
    const line = body.insertRow(), name = el("th", undefined, { scope: "row" });
    name.append(...breakable(row.name));
    if (answer.tied.includes(row)) name.append(" ", el("small", "tied"));
    if (answer.unsure(row).length) name.append(" ", el("small", "not sure"));
    line.append(name, ...columns.map((c) => el("td", row.cells[c], { class: "num" })));
  }
  return scrollBox(grid, "Rows that meet the limits");
}

function showAnswer(answer) {
  const count = answer.meets.length, rows = `${answer.candidates} compressed row${answer.candidates === 1 ? "" : "s"}`;
  const parts = [el("p", `${count || "None"} of ${rows} ${count > 1 ? "meet" : "meets"} the limits.`, { class: "verdict" })];
  if (count) {
    const first = answer.meets[0], unsure = answer.unsure(first);
    const grid = answerTable(answer, MAX_ROWS), more = el("button", `Show all ${count}`, { type: "button", class: "plain" });
    more.addEventListener("click", () => {
      const all = answerTable(answer, count);
      grid.replaceWith(all);
      more.remove();
      all.focus();
    });
    parts.push(grid, ...(count > MAX_ROWS ? [more] : []));
    if (answer.uncompared) parts.push(el("p", `Rows not compared with the best in pairs: ${answer.uncompared}.`));
    if (unsure.length) parts.push(el("p", `Not sure: the interval of the first row's ${unsure.join(" and ")} contains the limit.`));
    const made = el("details");
    made.append(el("summary", `Make and export ${first.name}`));
    if (!first.make) made.append(el("p", "Its records do not say how it was made."));
    else made.append(el("p", `The first row.${first.device ? ` Made on ${first.device}.` : ""}`, { class: "about" }), el("pre", `${first.make}\n${first.export}`.trim(), { tabindex: "0", "aria-label": "Commands that make and export it" }));
    parts.push(made);
  }
  if (answer.unmeasured.length) parts.push(el("p", `Left out, not measured: ${names(answer.unmeasured)}.`));
  if (answer.broken.length) parts.push(el("p", `Left out, their weights break their pattern: ${answer.broken.join(", ")}.`, { class: "about" }));
  const options = [$("pick-pattern"), $("pick-quant")].map((select) => select.selectedOptions[0].dataset.flag);
  const flags = [...options, ...sliders.filter(isOn).map((slider) => `--${flag(slider)} ${stopOf(slider)}`)].filter(Boolean);
  const asked = el("p", "The same in a terminal, with the nearest row that fails: ", { class: "about" });
  asked.append(el("code", [board().data.choices.command, ...flags].join(" ")));
  $("picked").replaceChildren(...parts, asked);
}

function fill(select, options) {
  const was = select.value;
  select.replaceChildren(el("option", "any", { value: "" }), ...options.map(([name, text]) => el("option", name, { value: name, "data-flag": text })));
  setOption(select, was);
}

function update(inAddress) {
  for (const slider of sliders) {
    const text = stopOf(slider) || "off";
    $(`out-${slider.dataset.limit}`).textContent = text;
    slider.setAttribute("aria-valuetext", text);
  }
  showAnswer(pick());
  const { title, protocol } = board().data;
  if (inAddress) {
    writeAddress({
      model: title, protocol, pattern: $("pick-pattern").value, quant: $("pick-quant").value,
      ...Object.fromEntries(sliders.map((slider) => [flag(slider), stopOf(slider)])),
    });
  }
}

function fillChoices() {
  fill($("pick-pattern"), board().data.choices.patterns);
  fill($("pick-quant"), board().data.choices.quantizers);
}

// The limits that the address names. What it names wrongly is said, and left out.
function readAddress() {
  if (!state.has("model")) return false;
  const named = tables.filter((t) => t.data.choices && t.data.title === state.get("model"));
  const fits = named.find((t) => !state.get("protocol") || t.data.protocol === state.get("protocol"));
  const wrong = fits ? [] : [named.length ? "protocol" : "model"];
  if (fits || named.length) $("pick-board").value = (fits || named[0]).box.dataset.table;
  fillChoices();
  for (const key of ["pattern", "quant"]) {
    setOption($(`pick-${key}`), state.get(key) || "");
    if ($(`pick-${key}`).value !== (state.get(key) || "")) wrong.push(key);
  }
  for (const slider of sliders) {
    const text = state.get(flag(slider)) || "", at = slider.stops.indexOf(text);
    if (text && at < 0) wrong.push(flag(slider));
    slider.value = at < 0 ? slider.stops.length : at;
  }
  update(false);
  if (wrong.length) $("picked").prepend(el("p", `The address has an invalid ${wrong.join(", ")}: left out.`, { class: "verdict" }));
  return true;
}

if ($("pick")) {
  $("pick").hidden = $("to-pick").hidden = false;
  $("pick-board").addEventListener("change", () => { fillChoices(); update(true); });
  for (const control of [$("pick-pattern"), $("pick-quant")]) control.addEventListener("change", () => update(true));
  for (const slider of sliders) slider.addEventListener("input", () => update(true));
  $("no-limits").addEventListener("click", () => {
    for (const slider of sliders) slider.value = slider.max;
    $("pick-pattern").value = $("pick-quant").value = "";
    update(true);
  });
  addEventListener("hashchange", () => { if (location.hash.includes("=")) readAddress(); });
  fillChoices();
  if (readAddress()) $("pick").scrollIntoView();
  else update(false);
}
