import { render, type ComponentType } from "preact";
import { useEffect, useRef, useState } from "preact/hooks";
import { clock, fullClock, percent } from "./format";
import type { Key } from "./i18n";
import { BoxBar, Money, Problem } from "./parts";
import Bill from "./pages/bill";
import { AppContext, link, type Route, type Theme, useApp, useAppState, useRoute } from "./state";

type Page = ComponentType<{ route: Route }>;

// The first page is in the first bundle; the others come when they are opened.
const pages: Record<string, Page | (() => Promise<{ default: Page }>)> = {
  bill: Bill,
  bridge: () => import("./pages/bridge"),
  flow: () => import("./pages/flow"),
  day: () => import("./pages/day"),
  elastic: () => import("./pages/elastic"),
  colocation: () => import("./pages/colocation"),
  machines: () => import("./pages/machines"),
  gpus: () => import("./pages/gpus"),
  idle: () => import("./pages/idle"),
  decisions: () => import("./pages/decisions"),
};
const loaded: Record<string, Page> = { bill: Bill };

function Main() {
  const app = useAppState();
  return (
    <AppContext.Provider value={app}>
      <Frame />
    </AppContext.Provider>
  );
}

function Frame() {
  const { t, status } = useApp();
  const route = useRoute();
  const page = route.page in pages ? route.page : "bill";
  const main = useRef<HTMLElement>(null);
  const first = useRef(true);
  useEffect(() => {
    document.title = `${t(`nav.${page}` as Key)} · ${status?.title ?? "Neap"}`;
  });
  useEffect(() => {
    // A new page is announced by moving the focus to it, but not on arrival.
    if (first.current) first.current = false;
    else main.current?.focus({ preventScroll: true });
    scrollTo(0, 0);
  }, [page]);
  return (
    <>
      <a
        class="skip"
        href="#main"
        onClick={(e) => {
          e.preventDefault();
          main.current?.focus();
        }}
      >
        {t("app.skip")}
      </a>
      <Top page={page} />
      <Nav page={page} />
      <main id="main" ref={main} tabIndex={-1} aria-label={t(`nav.${page}` as Key)}>
        <Now />
        <Lazy page={page} route={{ ...route, page }} />
      </main>
      <footer>
        <span>Neap</span>
        <span>{t("window.zone", { zone: status?.zone ?? "UTC" })}</span>
      </footer>
    </>
  );
}

function Lazy({ page, route }: { page: string; route: Route }) {
  const { t, asked } = useApp();
  const [, refresh] = useState(0);
  const [error, setError] = useState("");
  useEffect(() => {
    setError("");
    if (loaded[page]) return;
    (pages[page] as () => Promise<{ default: Page }>)().then(
      (m) => {
        loaded[page] = m.default;
        refresh((n) => n + 1);
      },
      () => setError("unreachable"),
    );
  }, [page]);
  const Here = loaded[page];
  if (error) return <Problem error={error} again={() => location.reload()} />;
  return Here && asked ? <Here key={page} route={route} /> : <p class="waiting">{t("app.loading")}</p>;
}

function Top({ page }: { page: string }) {
  const { t, lang, theme, status, live, connected, zone, setLang, setTheme } = useApp();
  const simulated = live?.simulated || status?.simulated;
  return (
    <header>
      <a class="brand" href={link("bill")}>
        <svg viewBox="0 0 32 22" width="26" height="18" aria-hidden="true">
          <path d="M2 8c5-8 9-8 14 0s9 8 14 0" />
          <path d="M2 16c5-4 9-4 14 0s9 4 14 0" class="low" />
        </svg>
        <span>{status?.title ?? "Neap"}</span>
      </a>
      {simulated && (
        <span class="badge" title={t("app.simulated.long")} id="simulated">
          {t("app.simulated")}
          <span class="hidden">: {t("app.simulated.long")}</span>
        </span>
      )}
      <div class="livestate" data-connected={String(connected)}>
        {connected === false ? (
          <span class="lost" role="status">
            {t("live.lost")}
          </span>
        ) : live ? (
          <>
            <span class={`dot ${live.state}`} aria-hidden="true" />
            <span class="hidden">{t("live.clock")}: </span>
            <time dateTime={live.now} id="clock">
              {fullClock(live.now, lang, zone)}
            </time>
            {live.speed !== 1 && <span class="wide">{t("live.speed", { n: live.speed })}</span>}
            {live.state !== "running" && <span>{t(`live.state.${live.state}` as Key)}</span>}
            <span class="quiet wide">
              {t("live.machines", { n: live.machines })} · {t("live.pods", { n: live.pods })}
              {live.pending > 0 && ` · ${t("live.pending", { n: live.pending })}`}
            </span>
          </>
        ) : (
          connected && <span class="quiet">{t("live.off")}</span>
        )}
      </div>
      <div class="settings" role="group" aria-label={t("app.settings")} key={page && "settings"}>
        <button type="button" lang={lang === "en" ? "zh" : "en"} onClick={() => setLang(lang === "en" ? "zh" : "en")} id="lang">
          {lang === "en" ? "中文" : "English"}
        </button>
        <select aria-label={t("app.theme")} value={theme} onChange={(e) => setTheme(e.currentTarget.value as Theme)} id="theme">
          {(["auto", "light", "dark"] as const).map((v) => (
            <option key={v} value={v}>
              {t(`app.theme.${v}` as Key)}
            </option>
          ))}
        </select>
      </div>
    </header>
  );
}

function Nav({ page }: { page: string }) {
  const { t } = useApp();
  // Arrow keys move between pages as they do between tabs; Tab still works.
  const onKey = (e: KeyboardEvent) => {
    const step = e.key === "ArrowRight" ? 1 : e.key === "ArrowLeft" ? -1 : 0;
    if (!step) return;
    const links = [...(e.currentTarget as HTMLElement).querySelectorAll("a")];
    const at = links.indexOf(document.activeElement as HTMLAnchorElement);
    links[(at + step + links.length) % links.length]?.focus();
    e.preventDefault();
  };
  return (
    <nav aria-label={t("app.nav")} onKeyDown={onKey}>
      {Object.keys(pages).map((p) => (
        <a key={p} href={link(p)} aria-current={p === page ? "page" : undefined}>
          {t(`nav.${p}` as Key)}
        </a>
      ))}
    </nav>
  );
}

// Now is the hour that runs: its figures so far, and how far the day has come.
function Now() {
  const { t, lang, zone, live, provisional } = useApp();
  if (!live) return null;
  const from = live.from ? Date.parse(live.from) : 0;
  const until = live.until ? Date.parse(live.until) : 0;
  const done = until > from && from > 0 ? Math.min(1, (Date.parse(live.now) - from) / (until - from)) : null;
  return (
    <section class="now" aria-label={t("live.hour")}>
      {done !== null && (
        <div class="progress">
          <progress max={1} value={done} aria-label={t("live.progress")} />
          <span class="quiet num">
            {t("live.progress")} {percent(done, 1, lang, 0)}
          </span>
        </div>
      )}
      {live.message && <p class="note">{live.message}</p>}
      {provisional && (
        <details>
          <summary>
            {t("live.hour")}{" "}
            <strong id="provisional">
              <Money nano={provisional.billNano} currency={provisional.currency} />
            </strong>{" "}
            <span class="quiet">
              {t("bill.allocated")} {percent(provisional.allocatedNano, provisional.billNano, lang)} ·{" "}
              {t("live.hour.note", { t: clock(Math.ceil((Date.parse(provisional.to) + 1) / 3_600_000) * 3_600_000, lang, zone) })}
            </span>
            {provisional.guard.broken > 0 && <span class="state broken">{t("guard.broken", { n: provisional.guard.broken })}</span>}
          </summary>
          <BoxBar used={provisional.allocatedNano} idle={provisional.idleNano} total={provisional.billNano} currency={provisional.currency} label={t("live.hour")} />
        </details>
      )}
    </section>
  );
}

const root = document.getElementById("app")!;
root.replaceChildren();
render(<Main />, root);
