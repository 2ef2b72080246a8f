// The server's API. Every failure is an Error whose message is for people; `status` is the HTTP status.

export async function ask(path, method = "GET", body = undefined) {
  const sent = body === undefined ? {} : { body: JSON.stringify(body), headers: { "Content-Type": "application/json" } };
  let answer;
  try {
    answer = await fetch(path, { method, ...sent });
  } catch {
    throw Object.assign(new Error("the server does not answer; is sppnet label still running?"), { status: 0 });
  }
  const found = await answer.json().catch(() => ({}));
  if (!answer.ok) throw Object.assign(new Error(found.error ?? `the server answers ${answer.status}`), { status: answer.status });
  return found;
}

export const photoPath = (photo, part = "") => `/v1/photos/${photo}${part}`;
