// What the page asks the server for. Every write carries a header that other sites cannot send.

const WRITE = { "X-Camseg-Review": "1" };

async function checked(answer) {
  if (answer.ok) return answer;
  const error = new Error((await answer.text()).trim() || answer.statusText);
  error.status = answer.status;
  throw error;
}

export async function getJson(path) {
  return (await checked(await fetch(path))).json();
}

// The pixels of a picture as they are in the file: colours are not adapted to the screen.
export async function getPixels(path) {
  return pixelsOf(await (await checked(await fetch(path))).blob());
}

export async function getBitmap(path) {
  const blob = await (await checked(await fetch(path))).blob();
  return createImageBitmap(blob);
}

export async function pixelsOf(blob) {
  const bitmap = await createImageBitmap(blob, { colorSpaceConversion: "none", premultiplyAlpha: "none" });
  const canvas = document.createElement("canvas");
  canvas.width = bitmap.width;
  canvas.height = bitmap.height;
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(bitmap, 0, 0);
  return context.getImageData(0, 0, canvas.width, canvas.height);
}

export async function post(path, body, headers = {}) {
  return checked(await fetch(path, { method: "POST", body, headers: { ...WRITE, ...headers } }));
}

// A decision: one line of JSON, then the painted mask, if there is one.
export async function decide(id, etag, verdict, painted) {
  const head = `${JSON.stringify(verdict)}\n`;
  const body = new Blob(painted ? [head, painted] : [head]);
  return (await post(`/api/items/${id}/decision`, body, { "If-Match": `"${etag}"` })).json();
}
