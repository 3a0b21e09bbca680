// What the user does, one thing after the other. What was done is said only after the server's yes.

import { ask } from "./api.js";
import { persons, say, words } from "./dom.js";
import { state, view } from "./state.js";

let last = Promise.resolve();

/**
 * Do something after all that was begun before, so that fast keys and clicks all count. Event listeners call this;
 * what is done in a turn must not wait for another turn.
 */
export function inTurn(work) {
  last = last.then(work).catch((error) => say(error.message, true));
  return last;
}

/** Return the actions as event listeners may call them: each one in its turn. */
export const inTurns = (actions) =>
  Object.fromEntries(Object.entries(actions).map(([name, act]) => [name, (...given) => inTurn(() => act(...given))]));

/**
 * Send a change. Returns the server's answer, or null after it was said why nothing was changed.
 * @param {string} name The request.
 * @param {object} content What it says.
 * @param {function} done Is called with the answer after the server's yes, and returns what is said then.
 */
async function send(name, content, done) {
  let answer;
  try {
    answer = await ask(name, content);
  } catch (error) {
    say(error.message, true);
    return null;
  }
  say(done(answer));
  return answer;
}

const upper = (text) => text[0].toUpperCase() + text.slice(1);

/** Return in words what nobody has decided about confirmed persons of an audit, because there was no value to confirm. */
function undecidedOf(confirmed) {
  const open = confirmed.filter((person) => person.undecided.length);
  if (!open.length) return "";
  if (confirmed.length === 1) return `. Still to decide: ${open[0].undecided.map(words).join(", ")}`;
  return `. Of ${persons(open.length)} a value is still to decide: ${open.length === 1 ? "it is" : "they are"} marked`;
}

/**
 * Decide something. Returns the server's answer, or null if nothing was decided.
 * @param {object} action What is decided, as the server wants it.
 * @param {string} what The same in words, such as "gender is male".
 */
export function sendDecision(action, what) {
  const about = action.ids.length === 1 ? `person ${action.ids[0]}` : persons(action.ids.length);
  return send("decide", { ...action, view: view(), table: state.about.table }, (answer) => {
    const left = action.kind === "confirm" ? undecidedOf(answer.persons) : "";
    if (answer.action === null) return `${upper(about)}: ${what}, as was decided before${left}`;
    const values = `${answer.decisions} ${answer.decisions === 1 ? "value" : "values"}`;
    const decided = action.kind === "confirm" ? `${what} (${values})` : what;
    state.undoable.push({ action: answer.action, text: `${about}, ${decided}` });
    return `${upper(about)}: ${decided}${left}`;
  });
}

/** Take back what this page has decided last. Returns the server's answer, or null if nothing was taken back. */
export async function sendUndo() {
  const one = state.undoable.at(-1);
  if (one === undefined) {
    say("Nothing has been decided here since the page was loaded");
    return null;
  }
  return send("undo", { action: one.action, view: view() }, () => {
    state.undoable.pop();
    return `Taken back: ${one.text}`;
  });
}
