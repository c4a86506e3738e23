// Contributing from Vue: attributes, the options as a property, and events as any other of the document's.
import 'kwaainet-web/define'
import { createApp, h, ref } from 'vue'

const query = new URLSearchParams(location.search)
const relay = query.get('relay') ?? 'http://127.0.0.1:8080'
const options = query.has('backend') ? { backend: query.get('backend') } : {}
const state = ref('idle')

createApp({
  render: () => [
    h('kwaai-node', { relay, theme: 'dark', '.options': options, onKwaaiState: event => { state.value = event.detail.state } }),
    h('output', state.value)
  ]
}).mount('main')
