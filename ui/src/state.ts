// What every part of the page shares: language, theme, route, the server's
// status and the stream of events.

import { createContext } from "preact";
import { useContext, useEffect, useRef, useState } from "preact/hooks";
import { ask, type LiveStatus, type Provisional, type Span, type StatusAnswer } from "./api";
import type { Lang } from "./format";
import { preferred, translate, type Key } from "./i18n";

export type Theme = "auto" | "light" | "dark";

export interface App {
  lang: Lang;
  theme: Theme;
  dark: boolean; // what theme comes to
  status: StatusAnswer | null;
  live: LiveStatus | null;
  provisional: Provisional | null;
  connected: boolean | null; // null before the first try
  asked: boolean; // the server's status was asked for, and it answered or did not
  epoch: number; // grows when an hour is closed; pages ask again
  setLang(l: Lang): void;
  setTheme(t: Theme): void;
}

export const AppContext = createContext<App>(null as unknown as App);

export function useApp() {
  const app = useContext(AppContext);
  const t = (key: Key, values?: Record<string, string | number>) => translate(app.lang, key, values);
  const zone = app.status?.zone ?? "UTC";
  return { ...app, t, zone };
}

// A remembered choice; storage may be forbidden, and then it lasts one visit.
function recall<T extends string>(key: string, allowed: readonly T[]): T | null {
  try {
    const v = localStorage.getItem("neap." + key) as T | null;
    return v !== null && allowed.includes(v) ? v : null;
  } catch {
    return null;
  }
}

function remember(key: string, v: string) {
  try {
    localStorage.setItem("neap." + key, v);
  } catch {
    // not remembered
  }
}

export function useAppState(): App {
  const [lang, setLang] = useState<Lang>(() => recall("lang", ["en", "zh"] as const) ?? preferred(navigator.languages));
  const [theme, setTheme] = useState<Theme>(() => recall("theme", ["auto", "light", "dark"] as const) ?? "auto");
  const [system, setSystem] = useState(() => matchMedia("(prefers-color-scheme: dark)").matches);
  const [status, setStatus] = useState<StatusAnswer | null>(null);
  const [live, setLive] = useState<LiveStatus | null>(null);
  const [provisional, setProvisional] = useState<Provisional | null>(null);
  const [connected, setConnected] = useState<boolean | null>(null);
  const [asked, setAsked] = useState(false);
  const [epoch, setEpoch] = useState(0);

  useEffect(() => {
    document.documentElement.lang = lang === "zh" ? "zh-CN" : "en";
  }, [lang]);
  useEffect(() => {
    if (theme === "auto") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = theme;
  }, [theme]);
  useEffect(() => {
    const media = matchMedia("(prefers-color-scheme: dark)");
    const on = () => setSystem(media.matches);
    media.addEventListener("change", on);
    return () => media.removeEventListener("change", on);
  }, []);

  useEffect(() => {
    let stop = false;
    // Up to where hours were closed when we last heard. Pages ask nothing before
    // the first answer, so that an hour closed after it is news to all of them.
    let known: string | undefined;
    const look = () =>
      ask<StatusAnswer>("status", {})
        .then(
          (s) => {
            if (stop) return;
            known ??= s.closed?.to ?? "";
            setStatus(s);
            if (s.live) setLive(s.live);
          },
          () => (known ??= ""), // whatever is closed when it answers again is news
        )
        .finally(() => stop || setAsked(true));
    look();
    // The stream says what is new. The browser comes back by itself after a
    // break; a refusal, such as too many listeners, is tried again slowly.
    let source: EventSource;
    let timer = 0;
    const open = () => {
      clearTimeout(timer);
      source = new EventSource("api/v1/events");
      source.onopen = () => {
        setConnected(true);
        look();
      };
      source.onerror = () => {
        setConnected(false);
        if (source.readyState === EventSource.CLOSED && !stop) timer = window.setTimeout(open, 10_000);
      };
      source.addEventListener("status", (e) => setLive(JSON.parse(e.data)));
      source.addEventListener("provisional", (e) => setProvisional(JSON.parse(e.data)));
      source.addEventListener("closed", (e) => {
        const span = JSON.parse(e.data) as Span;
        if (known !== undefined && known !== span.to) {
          setEpoch((n) => n + 1);
          look();
        }
        known = span.to;
      });
    };
    // A browser has few connections to a server; a page that nobody sees frees its own.
    const seen = () => {
      if (document.visibilityState === "visible") {
        if (source.readyState === EventSource.CLOSED) open();
      } else timer = window.setTimeout(() => document.visibilityState !== "visible" && source.close(), 30_000);
    };
    document.addEventListener("visibilitychange", seen);
    open();
    return () => {
      stop = true;
      document.removeEventListener("visibilitychange", seen);
      clearTimeout(timer);
      source.close();
    };
  }, []);

  return {
    lang,
    theme,
    dark: theme === "dark" || (theme === "auto" && system),
    status,
    live,
    provisional,
    connected,
    asked,
    epoch,
    setLang: (l) => (remember("lang", l), setLang(l)),
    setTheme: (t) => (remember("theme", t), setTheme(t)),
  };
}

export interface Route {
  page: string;
  query: Record<string, string>;
}

export function parseRoute(hash: string): Route {
  const [path, q] = hash.replace(/^#\/?/, "").split("?", 2);
  return { page: path || "bill", query: Object.fromEntries(new URLSearchParams(q ?? "")) };
}

export function link(page: string, query: Record<string, string | undefined> = {}): string {
  const q = new URLSearchParams();
  for (const [k, v] of Object.entries(query)) if (v) q.set(k, v);
  const text = q.toString();
  return `#/${page}${text ? "?" + text : ""}`;
}

export function useRoute(): Route {
  const [route, setRoute] = useState(() => parseRoute(location.hash));
  useEffect(() => {
    const on = () => setRoute(parseRoute(location.hash));
    addEventListener("hashchange", on);
    return () => removeEventListener("hashchange", on);
  }, []);
  return route;
}

// amend changes some of the route's query without a new entry in the history.
export function amend(route: Route, query: Record<string, string | undefined>) {
  location.replace(link(route.page, { ...route.query, ...query }));
}

export interface Answer<T> {
  data: T | null;
  error: string | null;
  again(): void;
}

// useAnswer asks the API, and asks again when the query changes or an hour is
// closed. The last answer stays while the next one is on its way.
export function useAnswer<T>(route: string, query: Record<string, string | undefined>, every = 0): Answer<T> {
  const { epoch, connected } = useContext(AppContext);
  const [state, set] = useState<{ data: T | null; error: string | null }>({ data: null, error: null });
  const [n, again] = useState(0);
  const key = JSON.stringify(query);
  const failed = useRef(false);
  useEffect(() => {
    const abort = new AbortController();
    ask<T>(route, JSON.parse(key), abort.signal).then(
      (data) => {
        failed.current = false;
        set({ data, error: null });
      },
      (e: Error) => {
        if (abort.signal.aborted) return;
        failed.current = true;
        set((s) => ({ data: s.data, error: e.message }));
      },
    );
    return () => abort.abort();
  }, [route, key, epoch, n]);
  useEffect(() => {
    if (connected && failed.current) again((x) => x + 1); // the server is back
  }, [connected]);
  useEffect(() => {
    if (!every) return;
    const timer = setInterval(() => document.visibilityState === "visible" && again((x) => x + 1), every);
    return () => clearInterval(timer);
  }, [every]);
  return { ...state, again: () => again((x) => x + 1) };
}

// useWidth measures an element, for charts that lay themselves out.
export function useWidth<E extends HTMLElement>(): [preact.RefObject<E>, number] {
  const ref = useRef<E>(null);
  const [width, setWidth] = useState(0);
  useEffect(() => {
    const el = ref.current;
    if (!el) return;
    const observer = new ResizeObserver((entries) => setWidth(Math.floor(entries[0].contentRect.width)));
    observer.observe(el);
    setWidth(Math.floor(el.getBoundingClientRect().width));
    return () => observer.disconnect();
  }, []);
  return [ref as preact.RefObject<E>, width];
}
