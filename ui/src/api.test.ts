import { expect, it } from "vitest";
import { ask } from "./api";

// serve answers every request with a body that can break off as it comes.
function serve(status: number, text: () => Promise<string>) {
  globalThis.fetch = (async () => ({ status, statusText: "", ok: status < 400, text })) as unknown as typeof fetch;
}

it("an answer given up while its body came is no answer", async () => {
  const abort = new AbortController();
  serve(200, async () => {
    abort.abort();
    throw abort.signal.reason;
  });
  await expect(ask("bill", {}, abort.signal)).rejects.toMatchObject({ name: "AbortError" });
});

it("a body that breaks off says that the server is out of reach", async () => {
  serve(200, async () => Promise.reject(new TypeError("network error")));
  await expect(ask("bill", {})).rejects.toThrow("unreachable");
});

it("an answer that is no JSON is refused with its status, also when it says 200", async () => {
  serve(200, async () => "<html>");
  await expect(ask("bill", {})).rejects.toThrow("200 ");
});

it("a refusal carries the server's sentence", async () => {
  serve(404, async () => '{"error":"No hour is closed yet."}');
  await expect(ask("bill", {})).rejects.toThrow("No hour is closed yet.");
});
