import type { Route } from "../state";

export default function Page({ route }: { route: Route }) {
  return <p>{route.page}</p>;
}
