// A chat in plain HTML: createClient, an answer as it comes, and a button that would abort it.
import { createClient } from 'kwaainet-web'

const relay = new URLSearchParams(location.search).get('relay') ?? 'http://127.0.0.1:8080'
const client = createClient({ relay })
const form = document.querySelector('form')
const output = document.querySelector('output')
let asking = new AbortController()

form.addEventListener('submit', async event => {
  event.preventDefault()
  asking.abort() // a new question ends the answer under way
  const { signal } = asking = new AbortController()
  output.textContent = ''
  try {
    const messages = [{ role: 'user', content: String(new FormData(form).get('text')) }]
    const chunks = await client.chat.completions.create({ messages, stream: true, temperature: 0, max_tokens: 16, signal })
    for await (const { choices: [{ delta }] } of chunks) output.textContent += delta.content ?? ''
    output.dataset.done = 'true'
  } catch (error) {
    if (!signal.aborted) output.textContent = error.message
  }
})
