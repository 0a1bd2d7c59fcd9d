// Calls to our own API, as whoever is logged in. The token is kept for this tab alone, and only until it closes.

const KEPT = "loquent.token";

export class Problem extends Error {
  constructor(status, detail, seconds) {
    super(detail);
    this.status = status;
    this.seconds = seconds; // after which it is worth another try; undefined where it is not
  }
}

export const token = () => sessionStorage.getItem(KEPT);
export const keep = (value) => (value ? sessionStorage.setItem(KEPT, value) : sessionStorage.removeItem(KEPT));

// Answers with the Response where all went well. Throws Problem; "loquent:stranger" is told where nobody is known.
export async function call(path, { headers = {}, json, ...options } = {}) {
  const sent = { ...headers };
  if (token()) sent.Authorization = `Bearer ${token()}`;
  if (json !== undefined) {
    sent["Content-Type"] = "application/json";
    options.body = JSON.stringify(json);
    options.method ??= "POST";
  }
  let response;
  try {
    response = await fetch(path, { ...options, headers: sent });
  } catch (fault) {
    if (fault.name === "AbortError") throw fault;
    throw new Problem(0, "The server cannot be reached.");
  }
  if (response.ok) return response;
  const problem = await response.json().catch(() => ({}));
  const after = Number.parseInt(response.headers.get("Retry-After"), 10);
  if (response.status === 401 && path !== "/api/v1/token") {
    keep(null);
    document.dispatchEvent(new Event("loquent:stranger"));
  }
  const detail = problem.detail || `The server answered ${response.status}.`;
  throw new Problem(response.status, detail, Number.isNaN(after) ? undefined : after);
}

export const read = async (path, options) => (await call(path, options)).json();

// Does it again while the server says that a model is loading or busy; `tell` hears the seconds that are left.
export async function patiently(work, tell, signal) {
  for (;;) {
    try {
      return await work();
    } catch (fault) {
      if (!(fault instanceof Problem) || fault.status !== 503 || fault.seconds === undefined) throw fault;
      for (let left = fault.seconds; left > 0; left -= 1) {
        tell(fault.message, left);
        await pause(1000, signal);
      }
    }
  }
}

export function pause(milliseconds, signal) {
  return new Promise((resolve, reject) => {
    const gone = () => {
      clearTimeout(timer);
      reject(new DOMException("stopped", "AbortError"));
    };
    const timer = setTimeout(() => {
      signal?.removeEventListener("abort", gone);
      resolve();
    }, milliseconds);
    if (signal?.aborted) gone();
    else signal?.addEventListener("abort", gone, { once: true });
  });
}
