// The page: what the address says is loaded and shown, and what the user does changes the address.

import { ask } from "./api.js";
import { inTurn, inTurns, sendDecision, sendUndo } from "./changes.js";
import { showCharts, showConditions } from "./charts.js";
import { byId, element, fill, persons, say, words } from "./dom.js";
import { isTyping, isUnsaved, leave, personKey, showPerson, showValues } from "./person.js";
import { showQueue } from "./queues.js";
import { fromAddress, state, toAddress, viewKey } from "./state.js";
import { loadWall, showTile, showWall } from "./wall.js";

let loaded = null;
let returnTo = null;

const actions = {
  open(id) {
    if (state.person === null) returnTo = id;
    return go({ person: id });
  },
  close: () => go({ person: null }),
  turn: (after) => go({ after }),
  queue: (queue) => go({ queue, after: 0, person: null }, true),
  draw: (size, seed) => go({ size, seed, after: 0 }, true),
  change: (conditions) => go({ conditions, after: 0 }, true),
  /** Returns whether it was decided. `isLeaving` says that another person is shown next. */
  decide: async (action, what, isLeaving = false) => changed(await sendDecision(action, what), isLeaving),
  undo: async () => changed(await sendUndo()),
};
const turns = inTurns(actions);

/** Change what is shown, and the address with it. */
async function go(change, fresh = false) {
  Object.assign(state, change);
  if (fresh) loaded = null;
  const address = toAddress();
  if (location.hash !== address) history.pushState(null, "", address);
  await show();
}

/** Show the persons as a change has left them. Returns whether there was one. */
async function changed(answer, isLeaving = false) {
  if (answer === null) {
    showValues();
    return false;
  }
  state.about.unsaved = answer.unsaved;
  state.about.decided = answer.decided;
  for (const person of answer.persons) {
    if (state.persons.has(person.id)) state.persons.set(person.id, person);
    showTile(person.id, turns);
  }
  showUnsaved();
  if (state.person === null) {
    await around();
    showWall(turns);
  } else if (!isLeaving && !isTyping()) {
    await showPerson(actions);
  }
  return true;
}

/** Show what is around the wall: queues, charts, filters. */
async function around() {
  showConditions(turns.change);
  await Promise.all([showQueue(turns), showCharts(turns.change)]);
}

/** Say how much of what is shown is a guess. */
function showGuess() {
  const number = state.about.decided;
  byId("guess").textContent = number
    ? `Values and counts are models' guesses, but for what people have decided: they have looked at ${persons(number)} (marked “decided”).`
    : "Nobody has decided anything yet: every value and every count here is a model's guess.";
}

function showUnsaved() {
  showGuess();
  const number = state.about.unsaved;
  byId("unsaved").textContent = number
    ? `Decisions about ${persons(number)} are saved, and in consolidated/ after: shopframe consolidate --output ${state.about.output}`
    : "";
}

/** Show what the address says. */
async function show() {
  document.body.setAttribute("aria-busy", "true");
  try {
    const key = `${viewKey()} ${state.after}`;
    const wasOpen = !byId("person").hidden;
    if (loaded !== key) {
      await loadWall(loaded === null);
      loaded = key;
      showWall(turns);
      await Promise.all([showPerson(actions), around()]);
    } else {
      await showPerson(actions);
    }
    if (wasOpen && state.person === null) {
      showWall(turns);
      // At once, because later the focus may be somewhere else by a key that was pressed meanwhile.
      byId("wall").querySelector(`[data-id="${returnTo}"] .open`)?.focus();
      await around();
    }
  } catch (error) {
    say(error.message, true);
  }
  document.body.removeAttribute("aria-busy");
}

function showHelp() {
  const line = (key, text) => element("tr", {}, element("th", { scope: "row" }, element("kbd", { text: key })), element("td", { text }));
  fill(
    byId("help"),
    element("h2", { id: "help-title", text: "Keys" }),
    element("p", { class: "quiet", text: "A person is open:" }),
    element("table", {}, element("tbody", {},
      ...state.about.attributes.filter((one) => one.key).map((one) =>
        line(one.key, one.type === "integer" ? `${words(one.name)}: type the number` : `${words(one.name)}: the next value, with Shift the one before`)),
      line("Enter", "all values are right, and the next person"),
      line("n", "next person"), line("k", "previous person"), line("u", "undo"),
      line("x", "not a person, or a person after all"), line("b", "redraw the box"), line("Escape", "back to the wall"))),
    element("p", { class: "quiet", text: "On the wall: arrow keys go from person to person, Space selects, Enter opens, u takes back, ? shows this." }),
    element("form", { method: "dialog" }, element("button", { text: "Close" })),
  );
  byId("help").showModal();
}

function wallKey(event) {
  const tile = event.target.closest?.(".tile");
  const tiles = [...byId("wall").querySelectorAll(".tile")];
  const moves = { ArrowRight: 1, ArrowLeft: -1 };
  if (tiles.length && tile) {
    const across = tiles.filter((one) => one.offsetTop === tiles[0].offsetTop).length;
    moves.ArrowDown = across;
    moves.ArrowUp = -across;
  }
  if (event.key === "u") turns.undo();
  else if (event.key === " " && tile && event.target.matches(".open")) tile.querySelector("input").click();
  else if (moves[event.key] && tile) {
    tiles[tiles.indexOf(tile) + moves[event.key]]?.querySelector(".open").focus();
  } else return;
  event.preventDefault();
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || byId("help").open || !state.about) return;
  const isTyping = event.target.matches?.("input:not([type=checkbox]), select, textarea");
  if (isTyping) {
    if (event.key === "Escape") {
      showValues();
      event.target.blur();
    }
    if (event.key === "Enter" && event.target.matches("#person input")) event.target.blur();
    return;
  }
  if (event.key === "?") {
    showHelp();
    event.preventDefault();
  } else if (!personKey(event, actions) && state.person === null) {
    wallKey(event);
  }
});

// The browser's Back and Forward, and an address that somebody types.
window.addEventListener("hashchange", () => inTurn(async () => {
  if (location.hash === toAddress()) return;
  if (!(await leave(actions))) {
    history.pushState(null, "", toAddress());
    return;
  }
  fromAddress();
  await show();
}));

window.addEventListener("beforeunload", (event) => {
  if (isUnsaved()) event.preventDefault();
});

byId("help-button").addEventListener("click", showHelp);
// The address holds the view, so the link must not change it.
document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault();
  byId("wall").focus();
});
// On a narrow page the filters come before the wall, so they begin folded.
if (matchMedia("(max-width: 50rem)").matches) byId("filter-fold").open = false;

inTurn(async () => {
  state.about = await ask("about");
  byId("output").textContent = `${state.about.output} · reviewer ${state.about.reviewer}`;
  fromAddress();
  showUnsaved();
  await show();
});
