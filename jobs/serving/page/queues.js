// The queues: whom to look at next, how many are left, and what is still expected to change.

import { ask } from "./api.js";
import { byId, count, element, fill, percent, persons } from "./dom.js";
import { state, view } from "./state.js";

/** Draw the names of the queues with their sizes. */
export function showQueues(actions) {
  fill(
    byId("queues"),
    ...state.about.queues.map((queue) => {
      const size = state.about.sizes[queue.name];
      return element("button", {
        type: "button",
        "data-key": `queue ${queue.name}`,
        "aria-current": state.queue === queue.name ? "page" : null,
        on: { click: () => actions.queue(queue.name) },
      }, element("span", { text: queue.title }), size === undefined ? null : element("span", { class: "number", text: count(size) }));
    }),
  );
}

/** Draw what the queue in view is, and how far its review has come. */
export async function showQueue(actions) {
  const queue = state.about.queues.find((one) => one.name === state.queue);
  const found = await ask("queue", { view: view() });
  state.about.sizes = found.sizes;
  showQueues(actions);
  const parts = [element("p", { class: "quiet", text: queue.meaning })];
  if (state.queue === "audit") parts.push(drawing(actions));
  if (state.queue !== "all") {
    const done = found.decided ? `; ${count(found.decided)} decided, ${count(found.changed)} of them changed` : "";
    const incomplete = found.incomplete ? ` Of ${persons(found.incomplete)} a value that is missing or withheld is still to decide: look for the mark “to decide”.` : "";
    parts.push(element("p", { id: "left", text: `${count(found.left)} left${done}.${incomplete}` }));
    if (found.expected && found.left) {
      const [share, low, high] = found.expected.map((number) => Math.round(number));
      parts.push(element("p", { id: "expected", text: `The next ${count(found.next)} are expected to change ${share} (95% interval ${low} to ${high}).` }));
    } else if (found.left) {
      parts.push(element("p", { class: "quiet", text: "What the next hundred are expected to change is known after the first decisions here." }));
    }
    if (state.wall.length) {
      parts.push(element("button", { type: "button", class: "primary", "data-key": "begin", text: "Begin with the first", on: { click: () => actions.open(state.wall[0]) } }));
    }
  }
  fill(byId("queue"), ...parts);
}

function drawing(actions) {
  const size = element("input", { type: "number", min: 1, max: 100000, value: state.size, id: "audit-size" });
  const seed = element("input", { type: "number", min: 0, max: 2147483647, value: state.seed, id: "audit-seed" });
  const probability = state.probability === null ? "" : ` Each of these persons was drawn with probability ${percent(state.probability)}.`;
  const byValues = state.byValues.length
    ? ` Decisions about this sample say nothing about others, because a filter by ${state.byValues.join(" and ")} changes with them: filter by camera, time or frame instead.`
    : "";
  return element("form", {
    class: "drawing-form",
    on: { submit: (event) => { event.preventDefault(); actions.draw(Number(size.value), Number(seed.value)); } },
  },
    element("label", { for: "audit-size", text: "Persons" }), size,
    element("label", { for: "audit-seed", text: "Sample number" }), seed,
    element("button", { type: "submit", "data-key": "draw", text: "Draw" }),
    element("span", { class: "quiet", text: `The same number draws the same persons again.${probability}${byValues}` }));
}
