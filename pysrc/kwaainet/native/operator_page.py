"""``/operator``: a relay's figures and its swarm's coverage, live, for who runs it.

It reads ``/status`` and ``/swarm.json`` as anybody may: there is no secret on it, and no address. Rule of the
file: one plain page without a build; what strangers say is shown as text, never as markup.
"""

from __future__ import annotations

from aiohttp import web

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)

PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>KwaaiNet relay</title>
<link rel="stylesheet" href="/operator/style.css">
<h1>KwaaiNet relay</h1>
<p id="state" role="status">reading</p>
<h2>Now</h2>
<table id="figures"></table>
<h2>Coverage</h2>
<div id="models"></div>
<h2>Refused, by reason</h2>
<table id="refused"></table>
<script src="/operator/page.js" type="module"></script>
</html>
"""

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 60rem; padding: 0 1rem; }
:root { color-scheme: light dark; }
h2 { font-size: 1.1rem; margin-top: 2rem; }
table { border-collapse: collapse; }
th { font-weight: normal; padding-right: 2rem; text-align: left; }
td { font-variant-numeric: tabular-nums; overflow-wrap: anywhere; }
.blocks { display: flex; flex-wrap: wrap; gap: 2px; }
.blocks span { background: #2a8a4a; color: #fff; font-size: 11px; min-width: 1.8em; text-align: center; }
.blocks .thin { background: #8a6d00; }
.blocks .none { background: #a52a2a; }
.stale { color: #a52a2a; }
"""

SCRIPT = """
const PERIOD = 2000; // ms
const $ = (id) => document.getElementById(id);
const element = (name, text, cls = "") => {
  const made = document.createElement(name);
  made.textContent = text;
  made.className = cls;
  return made;
};
const rows = (table, pairs) => {
  table.replaceChildren(...pairs.map(([name, value]) => {
    const row = document.createElement("tr");
    row.append(element("th", name), element("td", String(value)));
    return row;
  }));
};
const read = async (path) => {
  const answer = await fetch(path, { signal: AbortSignal.timeout(10000), cache: "no-store" });
  if (!answer.ok) throw new Error(`${path}: ${answer.status}`);
  return answer.json();
};
const duration = (s) => `${Math.floor(s / 3600)} h ${Math.floor(s / 60) % 60} min ${s % 60} s`;
const show = (status) => {
  rows($("figures"), [
    ["peer id", status.peer_id],
    ["version", status.version],
    ["up for", duration(status.uptimeSeconds)],
    ["peers", status.peers],
    ["connections", status.numConnections],
    ["slots held by tabs", status.reservations],
    ["circuits", status.circuits],
    ["carried, MB", (status.relayed_bytes / 1e6).toFixed(1)],
    ["kbit/s over 10 s, 1, 5, 15, 30, 60 min", status.kbps10s1m5m15m30m60m.join("  ")],
    ["bans", status.bans],
    ["draining", status.draining ? "yes" : "no"],
  ]);
  const refused = Object.entries(status.refused);
  rows($("refused"), refused.length ? refused : [["nothing", ""]]);
};
const cover = (swarm) => {
  $("models").replaceChildren(...swarm.models.flatMap((model) => {
    const blocks = element("div", "", "blocks");
    blocks.append(...model.counts.map((count, block) => {
      const cell = element("span", count, count === 0 ? "none" : count === 1 ? "thin" : "");
      cell.title = `block ${block}: ${count} online`;
      return cell;
    }));
    const bare = model.counts.filter((count) => count === 0).length;
    const words = bare ? `${bare} of ${model.num_blocks} blocks have no server` : "every block has a server";
    return [element("p", `${model.prefix}: ${words}`), blocks];
  }));
  if (swarm.problem || !swarm.models.length) $("models").append(element("p", swarm.problem || "no model"));
};
const turn = async () => {
  try {
    const [status, swarm] = await Promise.all([read("/status"), read("/swarm.json")]);
    show(status);
    cover(swarm);
    $("state").textContent = `as of ${new Date().toLocaleTimeString()}`;
    $("state").className = "";
  } catch (error) {
    $("state").textContent = `the relay does not answer (${error.message}); what stands here is old`;
    $("state").className = "stale";
  }
  setTimeout(turn, PERIOD);
};
turn();
"""

_FILES = {
    "/operator": ("text/html", PAGE),
    "/operator/style.css": ("text/css", STYLE),
    "/operator/page.js": ("text/javascript", SCRIPT),
}


def routes() -> list[web.RouteDef]:
    """The page, its style and its script."""
    return [web.get(path, _answer) for path in _FILES]


async def _answer(request: web.Request) -> web.Response:
    kind, text = _FILES[request.path]
    headers = {"Content-Security-Policy": POLICY, "Cache-Control": "no-cache"}
    return web.Response(text=text, content_type=kind, headers=headers)
