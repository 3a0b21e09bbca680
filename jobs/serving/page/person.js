// One person: the frame, both models' answers, and what people decided. A key sets an attribute.

import { ask } from "./api.js";
import { frameOf } from "./boxes.js";
import { byId, count, element, fill, percent, say, shown, words } from "./dom.js";
import { state, view } from "./state.js";
import { options, picture } from "./wall.js";

let current = null;
let frame = null;
// A value that a key has chosen and that is not decided yet, because the key may be pressed again.
let waiting = null;
const SETTLES_MS = 900;

/** Load and show the person that the state names. */
export async function showPerson(actions) {
  const section = byId("person");
  if (state.person === null) {
    section.hidden = true;
    current = null;
    cover(false);
    return;
  }
  const before = document.activeElement?.id;
  current = await ask("person", { id: state.person, view: view() });
  if (current.id !== state.person) return;
  section.hidden = false;
  cover(true);
  draw(actions);
  (before && byId(before) ? byId(before) : byId("person-title")).focus();
  section.setAttribute("aria-label", `Person ${current.id}`);
}

/** Take what the person covers away from keyboard and screen reader, or give it back. */
function cover(isCovered) {
  document.body.classList.toggle("with-person", isCovered);
  for (const covered of document.querySelectorAll(".skip, header, #queues, #columns")) covered.inert = isCovered;
}

function draw(actions) {
  const person = current;
  const isKept = person.verdict === "kept";
  frame = frameOf(person, actions.open, (box) => actions.decide({ kind: "box", ids: [person.id], box }));
  const place = person.place === null ? "not in this view" : `${count(person.place + 1)} of ${count(person.count)}`;
  const button = (id, text, key, run, off = false) =>
    element("button", { type: "button", id, disabled: off, "aria-keyshortcuts": key, on: { click: run } },
      element("span", { text }), key ? element("kbd", { text: key }) : null);
  fill(
    byId("person"),
    element("div", { class: "bar-of-person" },
      element("h2", { id: "person-title", tabindex: "-1", text: `Person ${person.id}` }),
      element("span", { class: "quiet", text: place }),
      button("close", "Close", "Escape", actions.close),
      button("previous", "Previous", "k", () => step(actions, person.previous), person.previous === null),
      button("next", "Next", "n", () => step(actions, person.next), person.next === null),
      button("confirm", "All is right, next", "Enter", () => confirm(actions), !isKept),
      button("undo", "Undo", "u", () => undo(actions), !state.about.can_undo),
      button("none", person.is_person ? "Not a person" : "Is a person", "x", () => toggleNone(actions), !isKept),
      button("draw", "Redraw the box", "b", () => frame.draw(), !isKept)),
    element("div", { class: "of-person" },
      element("div", { class: "pictures" }, frame.node,
        element("p", { class: "quiet", text: [person.camera ?? "no camera", person.captured_at ? `${person.captured_at} UTC` : null, person.shard_id, person.frame_key].filter(Boolean).join(" · ") }),
        person.dropped.length ? element("p", { class: "quiet", text: `${count(person.dropped.length)} dropped by the region of interest: dashed boxes` }) : null),
      element("div", { class: "values" },
        element("div", { class: "beside" }, picture(person, `Picture of person ${person.id}`),
          element("div", {},
            person.is_person ? null : element("p", { class: "warning", text: "Not a person" }),
            ...person.rules.map((rule) => element("p", { class: "warning", text: `Breaks the rule: ${rule}` })),
            ...Object.entries(person.answers).flatMap(([name, answer]) => remarks(name, answer)))),
        isKept ? table(actions) : element("p", { class: "warning", text: `Dropped by the region of interest: ${words(person.verdict)}. No model was asked.` }),
        history())),
  );
}

function remarks(name, answer) {
  const found = [];
  if (answer.status !== "ok") found.push(`${name}: ${answer.status ?? "not asked"}${answer.reason ? `, ${answer.reason}` : ""}`);
  if (answer.reasoning) found.push(`${name}: “${answer.reasoning}”`);
  return found.map((text) => element("p", { class: "quiet", text }));
}

function table(actions) {
  const names = Object.keys(current.answers);
  const cell = (answer, name) => {
    const value = answer.values[name];
    const isAnswered = ["ok", "inherited"].includes(answer.status);
    const sure = answer.confidences[name];
    const differs = isAnswered && current.disagrees.includes(name);
    return element("td", { class: differs ? "differs" : "" },
      element("span", { text: isAnswered ? shown(value) : "–" }),
      sure === null || sure === undefined ? null : element("span", { class: "quiet", text: ` ${percent(sure)}` }));
  };
  const rows = state.about.attributes.map((one) => {
    const id = `value-${one.name}`;
    return element("tr", { "data-attribute": one.name },
      element("th", { scope: "row" },
        element("label", { for: id, text: words(one.name) }), one.key ? element("kbd", { text: one.key }) : null),
      element("td", {}, field(one, id, actions)),
      element("td", { class: "source", text: source(one.name) }),
      ...names.map((name) => cell(current.answers[name], one.name)));
  });
  const heads = ["Attribute", "Final value", "From", ...names];
  return element("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Values of all sources" },
    element("table", {},
      element("thead", {}, element("tr", {}, ...heads.map((text) => element("th", { scope: "col", text })))),
      element("tbody", {}, ...rows)));
}

const source = (name) => {
  const from = current.sources[name];
  const sure = current.confidences[name];
  return from ? `${from}${from === "human" || sure === null ? "" : ` ${percent(sure)}`}` : "nobody";
};

function field(one, id, actions) {
  const value = current.values[one.name];
  if (one.type === "integer") {
    const [low, high] = one.range;
    const input = element("input", { type: "number", id, min: low, max: high, value: value ?? "", on: {
      change: () => decide(actions, one.name, input.value === "" ? null : Number(input.value)),
    } });
    return input;
  }
  const select = element("select", { id, on: { change: () => decide(actions, one.name, JSON.parse(select.value)) } }, ...options(one));
  select.value = JSON.stringify(value ?? null);
  return select;
}

function history() {
  if (!current.history.length) return element("p", { class: "quiet", text: "Nobody has decided anything about this person." });
  const lines = current.history.map((one) => {
    const what = {
      value: () => `${words(one.attribute)}: ${shown(one.value)} (was ${shown(one.replaces)})`,
      not_a_person: () => "not a person",
      box: () => "another box",
      withdrawal: () => "took back a decision",
      missed_person: () => "a missed person",
    }[one.kind]();
    const how = one.sampling === "random" ? `, drawn with probability ${percent(one.probability)}` : "";
    const text = `${one.decided_at.slice(0, 16).replace("T", " ")} ${one.reviewer} (${one.tool}${how}): ${what}`;
    return element("li", {}, one.counts || one.kind === "withdrawal" ? element("span", { text }) : element("s", { text }));
  });
  return element("details", { class: "history", open: lines.length < 6 },
    element("summary", { text: `History: ${count(lines.length)}` }), element("ol", {}, ...lines));
}

async function decide(actions, attribute, value) {
  waiting = null;
  const { id } = current;
  await actions.decide({ kind: "value", ids: [id], attribute, value });
  say(`Person ${id}: ${words(attribute)} is ${shown(value)}`);
}

/** Decide what a key has chosen, before anything else happens. */
export async function settle(actions) {
  if (!waiting) return;
  const { attribute, value, timer } = waiting;
  clearTimeout(timer);
  await decide(actions, attribute, value);
}

async function step(actions, to) {
  await settle(actions);
  if (to === null) say("There is nobody more in this view");
  else actions.open(to);
}

async function confirm(actions) {
  await settle(actions);
  const { id, next } = current;
  await actions.decide({ kind: "confirm", ids: [id] }, next !== null);
  say(`Person ${id} is right`);
  if (next !== null) actions.open(next);
}

async function undo(actions) {
  if (waiting) {
    clearTimeout(waiting.timer);
    waiting = null;
    draw(actions);
    say("Nothing was decided");
    return;
  }
  await actions.undo();
}

async function toggleNone(actions) {
  await settle(actions);
  const kind = current.is_person ? "not_a_person" : "person";
  await actions.decide({ kind, ids: [current.id] });
  say(kind === "person" ? "It is a person" : "It is not a person");
}

/** Handle a key while a person is shown. Returns whether it was used. */
export async function personKey(event, actions) {
  if (!current) return false;
  const onControl = event.target instanceof HTMLButtonElement || event.target instanceof HTMLAnchorElement || event.target.tagName === "SUMMARY";
  const fixed = {
    Escape: async () => { await settle(actions); actions.close(); },
    n: () => step(actions, current.next),
    k: () => step(actions, current.previous),
    u: () => undo(actions),
    x: () => current.verdict === "kept" && toggleNone(actions),
    b: async () => { await settle(actions); if (current.verdict === "kept") frame.draw(); },
  };
  if (event.key === "Enter" && !onControl && current.verdict === "kept") fixed.Enter = () => confirm(actions);
  const one = state.about.attributes.find((attribute) => attribute.key === event.key.toLowerCase());
  if (fixed[event.key]) {
    event.preventDefault();
    await fixed[event.key]();
    return true;
  }
  if (!one || current.verdict !== "kept") return false;
  event.preventDefault();
  if (waiting && waiting.attribute !== one.name) await settle(actions);
  if (one.type === "integer") {
    byId(`value-${one.name}`).focus();
    byId(`value-${one.name}`).select();
    return true;
  }
  cycle(one, event.shiftKey ? -1 : 1, actions);
  return true;
}

/** Choose the value after the present one. It is decided when no key follows, or before another action. */
function cycle(one, direction, actions) {
  const values = one.values.includes(null) ? one.values : [...one.values, null];
  const present = waiting ? waiting.value : (current.values[one.name] ?? null);
  const value = values[(values.indexOf(present) + direction + values.length) % values.length];
  if (waiting) clearTimeout(waiting.timer);
  const timer = setTimeout(() => settle(actions), SETTLES_MS);
  waiting = { attribute: one.name, value, timer };
  byId(`value-${one.name}`).value = JSON.stringify(value);
  say(`${words(one.name)}: ${shown(value)}`);
}

/** Forget the person without deciding anything. */
export const isOpen = () => current !== null;

