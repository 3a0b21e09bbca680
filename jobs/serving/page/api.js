// Requests to the server. Addresses are relative, so each one has the token that is in the page's own address.

/** Return the answer to a request. Throws an Error with the server's message. */
export async function ask(name, content = {}) {
  let response;
  try {
    response = await fetch(`api/${name}`, {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify(content),
    });
  } catch {
    throw new Error("The server doesn't answer. Is shopframe serve still running?");
  }
  if (response.ok) return response.json();
  const text = await response.text();
  let message = text;
  try {
    message = JSON.parse(text).error;
  } catch {
    // The text itself is the message.
  }
  throw new Error(message || `the server answered ${response.status}`);
}

/** Load a picture into an image, and say in its place why there is none. */
export function showPicture(image, address, whenGone) {
  image.addEventListener("error", async () => {
    const response = await fetch(address);
    if (response.ok) return;
    const answer = await response.json().catch(() => ({ error: "no picture" }));
    whenGone(answer.error);
  }, { once: true });
  image.src = address;
}
