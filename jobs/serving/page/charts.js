// Charts of the persons in view. Each bar is a button that shows its persons.

import { ask } from "./api.js";
import { byId, count, element, fill, persons, say, shown, words } from "./dom.js";
import { state, view } from "./state.js";

const TITLES = {
  captured_at: "Time (UTC)",
  hour: "Hour (UTC)",
  day: "Day (UTC)",
  certainty: "Certainty of the least certain attribute",
  decided: "Decided by people",
  is_person: "Shows a person",
  rule: "Breaks a rule",
  verdict: "Region of interest",
};
const WITHOUT = { camera: "no camera", hour: "no time", day: "no time", certainty: "decided by people, or no confidence", source: "no value", confidence: "none given" };
const open = new Set();
let latest = 0;

/** Return the conditions that a bar stands for. */
function conditionsOf(column, bar) {
  if (bar.above === null || bar.value === null) return [{ column, operator: "=", value: bar.value }];
  return [
    { column, operator: ">=", value: bar.value },
    { column, operator: "<", value: bar.above },
  ];
}

const same = (one, other) =>
  one.column === other.column && one.operator === other.operator && one.value === other.value;

function isOn(column, bar) {
  return conditionsOf(column, bar).every((wanted) => state.conditions.some((given) => same(given, wanted)));
}

/** Return a bar's value as text. */
export function label(column, bar) {
  if (bar.value === null) {
    const ending = column.slice(column.lastIndexOf("_") + 1);
    return WITHOUT[column] ?? WITHOUT[ending] ?? shown(null);
  }
  if (bar.above !== null && bar.above !== undefined) {
    const high = Math.round(bar.above * 100) / 100;
    return bar.above > 2 ? `${bar.value} to ${high - 1}` : `${bar.value} to ${high}`;
  }
  return column === "verdict" ? words(bar.value) : shown(bar.value);
}

export function titleOf(column) {
  if (TITLES[column]) return TITLES[column];
  const attribute = state.about.attributes.map((a) => a.name).find((name) => column.startsWith(`${name}_`));
  if (!attribute || column === attribute) return words(column);
  return words(column.slice(attribute.length + 1)) === "disagrees" ? "models disagree" : words(column.slice(attribute.length + 1));
}

function chartOf(chart, change) {
  const most = Math.max(1, ...chart.bars.map((bar) => bar.count));
  const bars = chart.bars.map((bar) => {
    const on = isOn(chart.column, bar);
    const filled = element("span", { class: "filled" });
    filled.style.width = `${(100 * bar.count) / most}%`;
    const name = label(chart.column, bar);
    return element(
      "li",
      {},
      element(
        "button",
        {
          type: "button",
          class: "bar",
          "aria-pressed": String(on),
          "data-key": `${chart.column} ${name}`,
          "aria-label": `${titleOf(chart.column)}: ${name}, ${persons(bar.count)}`,
          on: { click: () => change(toggled(chart.column, bar, on)) },
        },
        filled,
        element("span", { class: "name", text: name }),
        element("span", { class: "number", text: count(bar.count) }),
      ),
    );
  });
  const others = chart.others ? element("li", { class: "quiet", text: `others: ${count(chart.others)}` }) : null;
  return element(
    "section",
    { class: "chart" },
    element("h3", { text: titleOf(chart.column) }),
    bars.length ? element("ul", {}, ...bars, others) : element("p", { class: "quiet", text: "nobody" }),
  );
}

function toggled(column, bar, on) {
  const wanted = conditionsOf(column, bar);
  const others = state.conditions.filter((given) => !wanted.some((one) => same(given, one)));
  if (on) return others;
  // Ranges of one column exclude each other.
  const kept = wanted.length > 1 ? others.filter((given) => given.column !== column) : others;
  return [...kept, ...wanted];
}

let times = null;
let timesShown = null;

/** Return fields for the earliest and the latest time. They stay the same, with what is typed, while the times do. */
function timesForm(change) {
  const shown = JSON.stringify(state.conditions.filter((one) => one.column === "captured_at"));
  if (times === null || timesShown !== shown) [times, timesShown] = [newTimesForm(change), shown];
  return times;
}

function newTimesForm(change) {
  const given = (operator) => state.conditions.find((one) => one.column === "captured_at" && one.operator === operator);
  const field = (id, operator) => element("input", { type: "datetime-local", id, value: given(operator)?.value ?? "" });
  const from = field("time-from", ">=");
  const to = field("time-to", "<");
  const submit = (event) => {
    event.preventDefault();
    const others = state.conditions.filter((one) => one.column !== "captured_at");
    for (const [operator, input] of [[">=", from], ["<", to]]) {
      if (input.value) others.push({ column: "captured_at", operator, value: input.value });
    }
    change(others);
  };
  return element("form", { class: "times", on: { submit } },
    element("label", { for: "time-from", text: "From (UTC)" }), from,
    element("label", { for: "time-to", text: "Before (UTC)" }), to,
    element("button", { type: "submit", text: "Show this time" }));
}

/** Draw the charts anew. Groups that are folded are not asked for. */
export async function showCharts(change) {
  const mine = ++latest;
  const groups = Object.entries(state.about.charts);
  const wanted = groups.flatMap(([name, columns]) => (name === "" ? columns.slice(0, 4) : columns.slice(0, 1)));
  for (const [name, columns] of groups) if (open.has(name)) wanted.push(...columns);
  let charts;
  try {
    charts = await ask("charts", { view: view(), columns: [...new Set(wanted)] });
  } catch (error) {
    say(error.message, true);
    return;
  }
  if (mine !== latest) return;
  const made = new Map(charts.map((chart) => [chart.column, chart]));
  const draw = (column) => (made.has(column) ? chartOf(made.get(column), change) : null);
  fill(
    byId("charts"),
    ...groups.map(([name, columns]) => {
      const always = name === "" ? columns.slice(0, 4) : columns.slice(0, 1);
      const more = element("details", { class: "more", open: open.has(name) },
        element("summary", { "data-key": `more ${name}`, text: name === "" ? "More about the persons" : `More about ${words(name)}` }),
        ...columns.slice(always.length).map(draw), name === "" ? timesForm(change) : null);
      more.addEventListener("toggle", () => {
        if (more.open === open.has(name)) return;
        if (more.open) open.add(name);
        else open.delete(name);
        showCharts(change);
      });
      return element("div", { class: "group" }, ...always.map(draw), more);
    }),
  );
}

/** Show the filters in force, each with a button that takes it away. */
export function showConditions(change) {
  const buttons = state.conditions.map((condition) => {
    const attribute = state.about.attributes.map((a) => a.name).find((name) => condition.column.startsWith(`${name}_`));
    const name = attribute ? `${words(attribute)}: ${titleOf(condition.column)}` : titleOf(condition.column);
    const sign = condition.operator === "=" ? "is" : condition.operator;
    const value = typeof condition.value === "number" ? Math.round(condition.value * 100) / 100 : label(condition.column, { value: condition.value, above: null });
    return element("button", {
      type: "button",
      class: "condition",
      "aria-label": `Remove the filter ${name} ${sign} ${value}`,
      text: `${name} ${sign} ${value} ✕`,
      on: { click: () => change(state.conditions.filter((other) => other !== condition)) },
    });
  });
  if (buttons.length > 1) {
    buttons.push(element("button", { type: "button", text: "Remove all", on: { click: () => change([]) } }));
  }
  fill(byId("conditions"), ...buttons);
}
