// A page with a Pyodide of its own, on the page as in PyScript or in a worker as in JupyterLite (?in=worker).
import { visit } from './visit.js'

const output = document.querySelector('output')
const query = new URLSearchParams(location.search)
const say = text => { output.textContent = text }

if (query.get('in') === 'worker') {
  const worker = new Worker(`visit.js${location.search}`, { type: 'module' })
  worker.onmessage = ({ data }) => { say(data) }
} else {
  visit(query.get('relay')).then(say, error => { say(`failed: ${error}`) })
}
