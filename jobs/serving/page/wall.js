// The wall of persons, page by page, and what is done to several of them at once.

import { ask, showPicture } from "./api.js";
import { byId, count, element, fill, persons, say, shown, words } from "./dom.js";
import { PAGE_SIZE, state, view } from "./state.js";

let lastPicked = null;
// What was last chosen for several persons at once, which stays for the next ones.
const chosenValue = { attribute: null, values: new Map() };

/** Load a page of the view. */
export async function loadWall(fresh) {
  const answer = await ask("persons", { view: view(), after: state.after, limit: PAGE_SIZE, fresh });
  state.total = answer.count;
  state.probability = answer.probability;
  state.byValues = answer.by_values;
  state.wall = answer.persons.map((person) => person.id);
  state.persons.clear();
  for (const person of answer.persons) state.persons.set(person.id, person);
  for (const id of state.selected) if (!state.persons.has(id)) state.selected.delete(id);
}

/** Return the picture of a person, which says it if there is none. */
export function picture(person, alternative) {
  const image = element("img", { alt: alternative, decoding: "async", width: 120, height: 180 });
  const frame = element("span", { class: "picture" }, image);
  showPicture(image, `thumbnails/${person.id}`, (why) => {
    frame.replaceChildren(element("span", { class: "gone", title: why, text: `No picture: ${why}` }));
  });
  return frame;
}

function caption(person) {
  const given = Object.entries(person.values);
  const said = given
    .filter(([, value]) => value !== null && value !== false)
    .map(([name, value]) => (value === true ? words(name) : shown(value)));
  return said.join(", ") || "no values yet";
}

function tile(person, actions) {
  const text = caption(person);
  const marks = [];
  if (!person.is_person) marks.push("not a person");
  if (person.decided && person.is_person) marks.push("decided");
  if (person.undecided.length) marks.push(`to decide: ${person.undecided.map(words).join(", ")}`);
  if (person.verdict !== "kept") marks.push(`dropped: ${words(person.verdict)}`);
  if (person.disagrees.length) marks.push(`${person.disagrees.length} disagree`);
  const box = element("input", {
    type: "checkbox",
    "aria-label": `Select person ${person.id}`,
    checked: state.selected.has(person.id),
    on: { click: (event) => pick(person.id, event, actions) },
  });
  return element(
    "li",
    { class: `tile${person.is_person ? "" : " none"}`, "data-id": person.id },
    element(
      "button",
      {
        type: "button",
        class: "open",
        "aria-label": `Person ${person.id}: ${text}${marks.length ? `; ${marks.join(", ")}` : ""}`,
        on: { click: () => actions.open(person.id) },
      },
      picture(person, ""),
      element("span", { class: "caption", text }),
      element("span", { class: "marks" }, ...marks.map((mark) => element("span", { class: "mark", text: mark }))),
    ),
    element("label", { class: "pick" }, box),
  );
}

function pick(id, event, actions) {
  const on = event.target.checked;
  const ids = event.shiftKey && lastPicked !== null ? between(lastPicked, id) : [id];
  for (const one of ids) on ? state.selected.add(one) : state.selected.delete(one);
  lastPicked = id;
  for (const box of byId("wall").querySelectorAll("input")) {
    box.checked = state.selected.has(Number(box.closest("li").dataset.id));
  }
  showActions(actions);
}

function between(one, other) {
  const [first, last] = [state.wall.indexOf(one), state.wall.indexOf(other)].sort((a, b) => a - b);
  return first < 0 ? [other] : state.wall.slice(first, last + 1);
}

/** Draw the wall. */
export function showWall(actions) {
  byId("wall-title").textContent = persons(state.total);
  const tiles = state.wall.map((id) => tile(state.persons.get(id), actions));
  fill(byId("wall"), ...(tiles.length ? tiles : [element("li", { class: "quiet", text: "Nobody is left here. Remove a filter, or choose another queue." })]));
  const last = Math.max(0, Math.ceil(state.total / PAGE_SIZE) - 1);
  const page = Math.floor(state.after / PAGE_SIZE);
  const turn = (text, to, off) =>
    element("button", { type: "button", text, disabled: off, on: { click: () => actions.turn(to * PAGE_SIZE) } });
  fill(
    byId("pages"),
    turn("First", 0, page === 0),
    turn("Previous page", page - 1, page === 0),
    element("span", { text: `page ${count(page + 1)} of ${count(last + 1)}` }),
    turn("Next page", page + 1, page >= last),
    turn("Last", last, page >= last),
  );
  showActions(actions);
}

/** Draw one tile anew. */
export function showTile(id, actions) {
  const old = byId("wall").querySelector(`[data-id="${id}"]`);
  const person = state.persons.get(id);
  if (!old || !person) return;
  const made = tile(person, actions);
  // The picture stays the same, so it is not loaded again.
  made.querySelector(".picture").replaceWith(old.querySelector(".picture"));
  old.replaceWith(made);
}

/** Show what can be done with the selected persons. */
export function showActions(actions) {
  const chosen = [...state.selected];
  const all = element("button", {
    type: "button",
    text: chosen.length === state.wall.length && chosen.length ? "Select none" : "Select this page",
    on: {
      click: () => {
        if (chosen.length === state.wall.length) state.selected.clear();
        else for (const id of state.wall) state.selected.add(id);
        showWall(actions);
      },
    },
  });
  const last = state.undoable.at(-1);
  const undo = element("button", {
    type: "button", "data-key": "undo", text: "Undo", disabled: !last, title: last ? `Takes back: ${last.text}` : null, on: { click: actions.undo },
  });
  if (!chosen.length) {
    fill(byId("actions"), all, undo);
    return;
  }
  const attribute = element("select", { "aria-label": "Attribute", "data-key": "attribute" },
    ...state.about.attributes.map((one) => element("option", { value: one.name, text: words(one.name) })));
  if (chosenValue.attribute !== null) attribute.value = chosenValue.attribute;
  const value = element("span", { class: "new-value" });
  const chosenOne = () => state.about.attributes.find((other) => other.name === attribute.value);
  const refill = () => {
    const one = chosenOne();
    const control = one.type === "integer"
      ? element("input", { type: "number", min: one.range[0], max: one.range[1] })
      : element("select", {}, ...options(one));
    control.setAttribute("aria-label", "New value");
    control.dataset.key = "new value";
    if (chosenValue.values.has(one.name)) control.value = chosenValue.values.get(one.name);
    control.addEventListener("change", () => chosenValue.values.set(one.name, control.value));
    value.replaceChildren(control);
  };
  attribute.addEventListener("change", () => {
    chosenValue.attribute = attribute.value;
    refill();
  });
  refill();
  const set = () => {
    const one = chosenOne();
    const control = value.firstElementChild;
    if (control.validity.badInput) {
      say(`${words(one.name)}: that is not a number`, true);
      return;
    }
    const given = one.type !== "integer" ? JSON.parse(control.value) : control.value === "" ? null : Number(control.value);
    actions.decide({ kind: "value", ids: chosen, attribute: one.name, value: given }, `${words(one.name)} is ${shown(given)}`);
  };
  const button = (text, run) => element("button", { type: "button", "data-key": text, text, on: { click: run } });
  fill(
    byId("actions"),
    element("span", { text: `${count(chosen.length)} selected` }),
    all,
    attribute,
    value,
    button("Set", set),
    button("All is right", () => actions.decide({ kind: "confirm", ids: chosen }, "all is right")),
    button("Not a person", () => actions.decide({ kind: "not_a_person", ids: chosen }, "not a person")),
    undo,
  );
}

export const UNKNOWN_OR_NOTHING = "“unknown” is a value like the others: models answer it, and it is counted and exported. “can't tell” leaves the value empty: exports have no label there.";

/** Return whether an attribute offers both "unknown" and no value. */
export const hasUnknown = (attribute) => attribute.values.includes("unknown");

/** Return the options of an attribute's values. */
export function options(attribute) {
  const values = attribute.values.includes(null) ? attribute.values : [...attribute.values, null];
  const text = (value) => (value === null && hasUnknown(attribute) ? `${shown(value)} (leave empty)` : shown(value));
  return values.map((value) => element("option", { value: JSON.stringify(value), text: text(value) }));
}
