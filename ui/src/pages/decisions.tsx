import { useState } from "preact/hooks";
import type { Decision, DecisionsAnswer } from "../api";
import { count, dayClock } from "../format";
import { Guards, How, Load, Money } from "../parts";
import { type Route, useAnswer, useApp } from "../state";

export default function Decisions({}: { route: Route }) {
  const { t } = useApp();
  const answer = useAnswer<DecisionsAnswer>("decisions", {}, 15_000);
  return (
    <>
      <div class="pagehead">
        <h1>{t("decisions.title")}</h1>
      </div>
      <Load answer={answer}>{(d) => <Body d={d} />}</Load>
    </>
  );
}

const STEP = 100;

function Body({ d }: { d: DecisionsAnswer }) {
  const { t, lang } = useApp();
  const [filter, setFilter] = useState("");
  const [lever, setLever] = useState("");
  const [mode, setMode] = useState("");
  const [most, setMost] = useState(STEP);
  const needle = filter.toLowerCase();
  const rows = d.decisions.filter((x) => (!lever || x.lever === lever) && (!mode || x.mode === mode) && [x.actor, x.lever, x.action, x.subject, x.reason, x.outcome].some((s) => s.toLowerCase().includes(needle)));
  const some = (of: "lever" | "mode") => [...new Set(d.decisions.map((x) => x[of]).filter(Boolean))].sort();
  const choice = (label: string, value: string, set: (v: string) => void, of: "lever" | "mode") => (
    <label>
      {label}
      <select value={value} onChange={(e) => set(e.currentTarget.value)}>
        <option value="">{t("decisions.any")}</option>
        {some(of).map((v) => (
          <option key={v}>{v}</option>
        ))}
      </select>
    </label>
  );
  return (
    <>
      <Guards guard={d.guard} />
      {d.decisions.length === 0 ? (
        <p class="quiet">{t("decisions.none")}</p>
      ) : (
        <>
          <div class="tools">
            <label>
              {t("decisions.filter")}
              <input type="search" placeholder={t("decisions.filter.hint")} value={filter} onInput={(e) => setFilter(e.currentTarget.value)} />
            </label>
            {choice(t("decisions.lever"), lever, setLever, "lever")}
            {choice(t("decisions.mode"), mode, setMode, "mode")}
            <span class="quiet" role="status">
              {t("decisions.count", { n: count(rows.length, lang) })}
            </span>
          </div>
          <Rows rows={rows.slice(0, most)} currency={d.currency} />
          {rows.length > most && (
            <button type="button" class="more" onClick={() => setMost(most + STEP)}>
              {t("app.more", { n: rows.length })}
            </button>
          )}
          {d.left > 0 && <p class="quiet">{t("decisions.left", { n: count(d.left, lang) })}</p>}
        </>
      )}
      <How lines={["decisions.how.1"]} />
    </>
  );
}

// Rows are rows of the ledger, as they are given.
export function Rows({ rows, currency }: { rows: Decision[]; currency: string }) {
  const { t, lang, zone } = useApp();
  return (
    <ol class="ledger">
      {rows.map((x) => (
        <li key={x.id}>
          <time class="when quiet num" dateTime={x.at}>
            {dayClock(x.at, lang, zone)}
          </time>
          <div>
            <span class="what">
              {x.action} {x.subject}
            </span>{" "}
            {x.lever && <span class="tag">{x.lever}</span>} <span class="tag">{x.mode}</span> <span class="quiet small">{x.actor}</span>
            <p>{x.reason}</p>
            {(x.inputs || x.considered?.length) && (
              <details>
                <summary>
                  {t("decisions.inputs")}, {t("decisions.considered")}
                </summary>
                <dl class="figures">
                  {Object.entries(x.inputs ?? {}).map(([k, v]) => (
                    <div key={k}>
                      <dt>{k}</dt>
                      <dd>{v}</dd>
                    </div>
                  ))}
                </dl>
                {x.considered?.map((c) => (
                  <p key={c} class="quiet">
                    {t("decisions.considered")}: {c}
                  </p>
                ))}
              </details>
            )}
          </div>
          <div class="amount">
            <div title={t("decisions.predicted")}>
              <span class="hidden">{t("decisions.predicted")} </span>
              <Money nano={x.predictedNano} currency={currency || "USD"} signed /> <span class="quiet small">{t("decisions.perhour")}</span>
            </div>
            {x.realisedNano != null && (
              <div class="small">
                {t("decisions.realised")} <Money nano={x.realisedNano} currency={currency || "USD"} signed />
              </div>
            )}
            <div class="small quiet">{x.outcome}</div>
          </div>
        </li>
      ))}
    </ol>
  );
}
