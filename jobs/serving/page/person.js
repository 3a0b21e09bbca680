// One person: the frame, both models' answers, and what people decided. A key sets an attribute.

import { ask } from "./api.js";
import { frameOf } from "./boxes.js";
import { inTurn } from "./changes.js";
import { byId, count, element, fill, percent, say, shown, words } from "./dom.js";
import { state, view } from "./state.js";
import { UNKNOWN_OR_NOTHING, hasUnknown, options, picture } from "./wall.js";

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
    frame = null;
    cover(false);
    return;
  }
  const before = document.activeElement?.id;
  try {
    current = await ask("person", { id: state.person, view: view() });
  } catch (error) {
    // What is shown stays, and so does what keys are about.
    state.person = current?.id ?? null;
    throw error;
  }
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
  const last = state.undoable.at(-1);
  const mine = frameOf(person, (id) => inTurn(() => open(actions, id)), (box) => aboutShown(async () => {
    // A box is saved once, however often it is asked for.
    if (frame === mine) await actions.decide({ kind: "box", ids: [person.id], box }, "another box");
  }));
  frame = mine;
  const button = (id, text, key, run, off = false, title = null) =>
    element("button", { type: "button", id, title, disabled: off, "aria-keyshortcuts": key, on: { click: run } },
      element("span", { text }), key ? element("kbd", { text: key }) : null);
  fill(
    byId("person"),
    element("div", { class: "bar-of-person" },
      element("h2", { id: "person-title", tabindex: "-1", text: `Person ${person.id}` }),
      element("span", { class: "quiet", text: place() }),
      button("close", "Close", "Escape", () => inTurn(() => close(actions))),
      button("previous", "Previous", "k", () => inTurn(() => step(actions, -1)), person.previous === null),
      button("next", "Next", "n", () => inTurn(() => step(actions, 1)), person.next === null),
      button("confirm", "All is right, next", "Enter", () => aboutShown(() => confirm(actions)), !isKept),
      button("undo", "Undo", "u", () => inTurn(() => undo(actions)), !last, last ? `Takes back: ${last.text}` : null),
      button("none", person.is_person ? "Not a person" : "Is a person", "x", () => aboutShown(() => toggleNone(actions)), !isKept),
      button("draw", "Redraw the box", "b", () => aboutShown(() => redraw(actions)), !isKept)),
    element("div", { class: "of-person" },
      element("div", { class: "pictures" }, frame.node,
        element("p", { class: "quiet", text: [person.camera ?? "no camera", person.captured_at ? `${person.captured_at} UTC` : null, person.shard_id, person.frame_key].filter(Boolean).join(" · ") }),
        element("p", { class: "identity" },
          element("span", { class: "quiet", text: "Person id" }), element("code", { id: "person-id", text: person.person_id }),
          element("button", { type: "button", id: "copy", "aria-label": "Copy the person id", text: "Copy", on: { click: copyId } })),
        person.dropped.length ? element("p", { class: "quiet", text: `${count(person.dropped.length)} dropped by the region of interest: dashed boxes` }) : null),
      element("div", { class: "values" },
        element("div", { class: "beside" }, picture(person, `Picture of person ${person.id}`),
          element("div", {},
            person.is_person ? null : element("p", { class: "warning", text: "Not a person" }),
            ...person.rules.map((rule) => element("p", { class: "warning", text: `Breaks the rule: ${rule}` })),
            ...Object.entries(person.answers).flatMap(([name, answer]) => remarks(name, answer)))),
        undecided(actions),
        isKept ? table(actions) : element("p", { class: "warning", text: `Dropped by the region of interest: ${words(person.verdict)}. No model was asked.` }),
        history())),
  );
}

const place = () => (current.place === null ? "not in this view" : `${count(current.place + 1)} of ${count(current.count)}`);

const viewName = () => `“${state.about.queues.find((one) => one.name === state.queue).title}”`;

/** Return what "All is right" leaves undecided in an audit, with a way to say that it can't be told. */
function undecided(actions) {
  if (!current.undecided.length) return null;
  const unknown = (name) => element("button", {
    type: "button", id: `unknown-${name}`, text: `${words(name)}: ${shown(null)}`,
    on: { click: () => aboutShown(async () => { if (await leave(actions)) await decide(actions, current.id, name, null); }) },
  });
  return element("div", { id: "undecided", class: "warning" },
    element("p", { text: `“All is right” doesn't decide ${current.undecided.map(words).join(", ")}: no value was given, or it is withheld. Choose what you see, also where it is hard, or the audit would lack the hard persons:` }),
    ...current.undecided.map(unknown));
}

/** Copy the name of the person that commands such as shopframe erase want. */
async function copyId() {
  const text = byId("person-id").textContent;
  try {
    await navigator.clipboard.writeText(text);
    say(`Copied: ${text}`);
  } catch {
    // The browser doesn't let pages copy that came without encryption from another machine.
    getSelection().selectAllChildren(byId("person-id"));
    say("The person id is selected: copy it with the browser's own command");
  }
}

function remarks(name, answer) {
  const found = [];
  if (answer.status !== "ok") found.push(`${name}: ${answer.status ?? "not asked"}${answer.reason ? `, ${answer.reason}` : ""}`);
  if (answer.reasoning) found.push(`${name}: “${answer.reasoning}”`);
  return found.map((text) => element("p", { class: "quiet", text }));
}

function table(actions) {
  const answers = Object.entries(current.answers).map(([name, answer]) => ({ ...answer, name }));
  const cell = (answer, name) => {
    const value = answer.values[name];
    const isAnswered = ["ok", "inherited"].includes(answer.status);
    const sure = answer.confidences[name];
    const differs = isAnswered && current.disagrees.includes(name);
    return element("td", { role: "cell", class: `answer${differs ? " differs" : ""}`, "data-from": answer.name },
      element("span", { text: isAnswered ? shown(value) : "–" }),
      sure === null || sure === undefined ? null : element("span", { class: "quiet", text: ` ${percent(sure)}` }));
  };
  const rows = state.about.attributes.map((one) => {
    const id = `value-${one.name}`;
    return element("tr", { role: "row", "data-attribute": one.name, class: current.undecided.includes(one.name) ? "undecided" : null },
      element("th", { role: "rowheader", scope: "row" },
        element("label", { for: id, text: words(one.name) }), one.key ? element("kbd", { text: one.key }) : null),
      element("td", { role: "cell" }, field(one, id, actions)),
      element("td", { role: "cell", class: "source", "data-from": "from", text: source(one.name) }),
      ...answers.map((answer) => cell(answer, one.name)));
  });
  const heads = ["Attribute", "Final value", "From", ...answers.map(({ name }) => name)];
  // A narrow page shows each row as a block. The roles are given because blocks have none of their own.
  return element("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Values of all sources" },
    element("table", { class: "stacked", role: "table" },
      element("thead", { role: "rowgroup" },
        element("tr", { role: "row" }, ...heads.map((text) => element("th", { role: "columnheader", scope: "col", text })))),
      element("tbody", { role: "rowgroup" }, ...rows)),
    state.about.attributes.some(hasUnknown) ? element("p", { class: "quiet", text: UNKNOWN_OR_NOTHING }) : null);
}

const source = (name) => {
  const from = current.sources[name];
  const sure = current.confidences[name];
  return from ? `${from}${from === "human" || sure === null ? "" : ` ${percent(sure)}`}` : "nobody";
};

/** Return a value as it stands in its field. */
const inField = (one, value) => (one.type === "integer" ? String(value ?? "") : JSON.stringify(value ?? null));

/** Return whether somebody has given a value that is not withheld. */
const isGiven = (name) => ![null, "abstained"].includes(current.sources[name] ?? null);

/** Return what the field of an attribute has at first. */
const atFirst = (one) => (one.type === "integer" || isGiven(one.name) ? inField(one, current.values[one.name]) : "");

/** Decide what was typed or chosen in a field. */
async function decideField(actions, one, control) {
  if (control.validity.badInput) {
    say(`${words(one.name)}: that is not a number`, true);
    showValues();
  } else if (await leave(actions)) {
    const value = one.type !== "integer" ? JSON.parse(control.value) : control.value === "" ? null : Number(control.value);
    await decide(actions, current.id, one.name, value);
  }
}

function field(one, id, actions) {
  const [min, max] = one.range ?? [];
  const control = one.type === "integer"
    ? element("input", { type: "number", id, min, max })
    : element("select", { id },
      isGiven(one.name) ? null : element("option", { value: "", disabled: true, text: "not decided" }), ...options(one));
  control.value = atFirst(one);
  control.addEventListener("change", () => aboutShown(() => decideField(actions, one, control)));
  return control;
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
    const text = `${one.decided_at.slice(0, 16).replace("T", " ")} UTC ${one.reviewer} (${one.tool}${how}): ${what}`;
    return element("li", {}, one.counts || one.kind === "withdrawal" ? element("span", { text }) : element("s", { text }));
  });
  return element("details", { class: "history", open: lines.length < 6 },
    element("summary", { text: `History: ${count(lines.length)}` }), element("ol", {}, ...lines));
}

/** Show what the server has in all fields, after something else was typed or chosen there. */
export function showValues() {
  if (current === null) return;
  for (const one of state.about.attributes) {
    const control = byId(`value-${one.name}`);
    if (control) control.value = atFirst(one);
  }
}

/** Return whether a number is being typed, which would be lost if the person were drawn again. */
export function isTyping() {
  if (current === null) return false;
  const control = document.activeElement;
  const one = state.about.attributes.find(({ name, type }) => type === "integer" && control?.id === `value-${name}`);
  return one !== undefined && control.value !== inField(one, current.values[one.name]);
}

/** Return whether something was drawn or chosen that is not decided yet. */
export const isUnsaved = () => waiting !== null || Boolean(frame?.isChanged());

/** Do something in its turn, if the person whom the user sees now is still shown then. */
function aboutShown(work) {
  const seen = current?.id;
  return inTurn(async () => {
    if (current !== null && current.id === seen) await work();
    else if (current !== null) say(`Person ${current.id} was not shown yet, so nothing was decided`, true);
  });
}

/** Decide what a key has chosen, before anything else happens. Returns false if it could not be decided. */
async function settle(actions) {
  if (!waiting) return true;
  const { id, attribute, value, timer } = waiting;
  clearTimeout(timer);
  waiting = null;
  return decide(actions, id, attribute, value);
}

/** Make the person ready to be left or decided. Returns false if something would be lost, which is said. */
export async function leave(actions) {
  if (frame?.isChanged()) {
    say("The new box is not saved yet: save it, or cancel", true);
    showValues();
    return false;
  }
  frame?.stop();
  return settle(actions);
}

const decide = (actions, id, attribute, value) =>
  actions.decide({ kind: "value", ids: [id], attribute, value }, `${words(attribute)} is ${shown(value)}`);

async function step(actions, direction) {
  if (current === null || !(await leave(actions))) return;
  const to = direction > 0 ? current.next : current.previous;
  if (to !== null) await actions.open(to);
  else if (current.place === null) say(`Person ${current.id} is not in this view, so nobody is before or after`);
  else say(`Person ${current.id} is the ${direction > 0 ? "last" : "first"} one of ${viewName()}`);
}

async function open(actions, id) {
  if (await leave(actions)) await actions.open(id);
}

async function close(actions) {
  if (await leave(actions)) await actions.close();
}

async function confirm(actions) {
  if (!(await leave(actions))) return;
  const { id, next, place: among, undecided: open } = current;
  if (!(await actions.decide({ kind: "confirm", ids: [id] }, "all is right", next !== null && !open.length))) return;
  // The person stays until the reviewer has decided the rest, or goes on without it by another key.
  if (open.length) return;
  if (next !== null) await actions.open(next);
  else if (among !== null) say(`${byId("said").textContent}. That was the last person of ${viewName()}`);
}

async function undo(actions) {
  if (waiting) {
    clearTimeout(waiting.timer);
    waiting = null;
    showValues();
    say("Nothing was decided");
  } else if (await leave(actions)) {
    await actions.undo();
  }
}

async function toggleNone(actions) {
  if (!(await leave(actions))) return;
  const kind = current.is_person ? "not_a_person" : "person";
  await actions.decide({ kind, ids: [current.id] }, kind === "person" ? "a person after all" : "not a person");
}

async function redraw(actions) {
  if (frame.isDrawing() || (await settle(actions))) frame.draw();
}

/** Handle a key while a person is shown. Returns whether it was used. */
export function personKey(event, actions) {
  if (state.person === null) return false;
  const onControl = event.target instanceof HTMLButtonElement || event.target instanceof HTMLAnchorElement || event.target.tagName === "SUMMARY";
  const isKept = current?.verdict === "kept";
  const fixed = {
    Escape: () => inTurn(() => (frame?.isDrawing() ? frame.cancel() : close(actions))),
    n: () => inTurn(() => step(actions, 1)),
    k: () => inTurn(() => step(actions, -1)),
    u: () => inTurn(() => undo(actions)),
    x: () => isKept && aboutShown(() => toggleNone(actions)),
    b: () => isKept && aboutShown(() => redraw(actions)),
  };
  if (event.key === "Enter" && !onControl && isKept) {
    fixed.Enter = () => (frame.isDrawing() ? frame.save() : aboutShown(() => confirm(actions)));
  }
  const one = state.about.attributes.find((attribute) => attribute.key === event.key.toLowerCase());
  if (fixed[event.key]) fixed[event.key]();
  else if (one && isKept) aboutShown(() => choose(one, event.shiftKey ? -1 : 1, actions));
  else return false;
  event.preventDefault();
  return true;
}

/** Go to the field of a number, or choose the next of other values. */
async function choose(one, direction, actions) {
  if (frame.isDrawing() || waiting?.attribute !== one.name) {
    if (!(await leave(actions))) return;
  }
  const control = byId(`value-${one.name}`);
  if (one.type === "integer") {
    control.focus();
    control.select();
    return;
  }
  const values = one.values.includes(null) ? one.values : [...one.values, null];
  const present = waiting ? waiting.value : (current.values[one.name] ?? null);
  const value = values[(values.indexOf(present) + direction + values.length) % values.length];
  // It is decided when no key follows, or before another action.
  if (waiting) clearTimeout(waiting.timer);
  const timer = setTimeout(() => inTurn(() => settle(actions)), SETTLES_MS);
  waiting = { id: current.id, attribute: one.name, value, timer };
  control.value = inField(one, value);
  say(`${words(one.name)}: ${shown(value)}, not saved yet`);
}
