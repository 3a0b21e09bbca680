// The page: what the address says is loaded and shown, and what the user does changes the address.

import { ask } from "./api.js";
import { showCharts, showConditions } from "./charts.js";
import { byId, element, fill, persons, say, words } from "./dom.js";
import { isOpen, personKey, settle, showPerson } from "./person.js";
import { showQueue } from "./queues.js";
import { fromAddress, state, toAddress, view, viewKey } from "./state.js";
import { loadWall, showTile, showWall } from "./wall.js";

let loaded = null;
let returnTo = null;

const actions = {
  open(id) {
    if (state.person === null) returnTo = id;
    go({ person: id });
  },
  close: () => go({ person: null }),
  turn: (after) => go({ after }),
  queue: (queue) => go({ queue, after: 0, person: null }, true),
  draw: (size, seed) => go({ size, seed, after: 0 }, true),
  change: (conditions) => go({ conditions, after: 0 }, true),
  async decide(action, isLeaving = false) {
    await changed(() => ask("decide", { ...action, view: view() }), isLeaving);
  },
  async undo() {
    await changed(() => ask("undo"));
    say("Taken back");
  },
};

/** Change what is shown, and the address with it. */
function go(change, fresh = false) {
  Object.assign(state, change);
  if (fresh) loaded = null;
  const address = toAddress();
  if (location.hash === address) show();
  else location.hash = address;
}

/** Make a change, and show the persons as they are then. */
async function changed(make, isLeaving = false) {
  let answer;
  try {
    answer = await make();
  } catch (error) {
    say(error.message, true);
    return;
  }
  state.about.unsaved = answer.unsaved;
  state.about.can_undo = answer.can_undo;
  for (const person of answer.persons) {
    if (state.persons.has(person.id)) state.persons.set(person.id, person);
    showTile(person.id, actions);
  }
  showUnsaved();
  await Promise.all([isLeaving ? null : showPerson(actions), isOpen() ? null : around()]);
  if (!isOpen()) showWall(actions);
}

/** Show what is around the wall: queues, charts, filters. */
async function around() {
  showConditions(actions.change);
  await Promise.all([showQueue(actions), showCharts(actions.change)]);
}

function showUnsaved() {
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
    const wasOpen = isOpen();
    if (loaded !== key) {
      await loadWall(loaded === null);
      loaded = key;
      showWall(actions);
      await Promise.all([showPerson(actions), around()]);
    } else {
      await showPerson(actions);
    }
    if (wasOpen && state.person === null) {
      showWall(actions);
      await around();
      byId("wall").querySelector(`[data-id="${returnTo}"] .open`)?.focus();
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

async function wallKey(event) {
  const tile = event.target.closest?.(".tile");
  const tiles = [...byId("wall").querySelectorAll(".tile")];
  const moves = { ArrowRight: 1, ArrowLeft: -1 };
  if (tiles.length && tile) {
    const across = tiles.filter((one) => one.offsetTop === tiles[0].offsetTop).length;
    moves.ArrowDown = across;
    moves.ArrowUp = -across;
  }
  if (event.key === "u") await actions.undo();
  else if (event.key === " " && tile && event.target.matches(".open")) tile.querySelector("input").click();
  else if (moves[event.key] && tile) {
    tiles[tiles.indexOf(tile) + moves[event.key]]?.querySelector(".open").focus();
  } else return;
  event.preventDefault();
}

document.addEventListener("keydown", async (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || byId("help").open || !state.about) return;
  const isTyping = event.target.matches?.("input:not([type=checkbox]), select, textarea");
  if (isTyping) {
    if (event.key === "Escape") event.target.blur();
    if (event.key === "Enter" && event.target.matches("#person input")) event.target.blur();
    return;
  }
  if (event.key === "?") {
    showHelp();
    event.preventDefault();
  } else if (!(await personKey(event, actions)) && !isOpen()) {
    await wallKey(event);
  }
});

window.addEventListener("hashchange", async () => {
  await settle(actions);
  fromAddress();
  await show();
});

byId("help-button").addEventListener("click", showHelp);
// On a narrow page the filters come before the wall, so they begin folded.
if (matchMedia("(max-width: 50rem)").matches) byId("filter-fold").open = false;

try {
  state.about = await ask("about");
  byId("output").textContent = `${state.about.output} · reviewer ${state.about.reviewer}`;
  fromAddress();
  showUnsaved();
  await show();
} catch (error) {
  say(error.message, true);
}
