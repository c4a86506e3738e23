// Runs visit.py in Pyodide, here or as a worker's main; resolves with what it returns.
export async function visit (relay) {
  const { loadPyodide } = await import('./pyodide/pyodide.mjs')
  const python = await loadPyodide({ packages: ['micropip'] })
  const script = await (await fetch(new URL('visit.py', import.meta.url))).text()
  return await python.runPythonAsync(script, { globals: python.toPy({ relay }) })
}

if (globalThis.document === undefined) {
  const relay = new URLSearchParams(location.search).get('relay')
  visit(relay).then(postMessage, error => { postMessage(`failed: ${error}`) })
}
