// Contributing from React: <kwaai-node> as any element, its options as a property, its state by an event.
import 'kwaainet-web/define'
import { useEffect, useRef, useState } from 'react'
import { createRoot } from 'react-dom/client'

const query = new URLSearchParams(location.search)
const relay = query.get('relay') ?? 'http://127.0.0.1:8080'
const options = query.has('backend') ? { backend: query.get('backend') } : {}

function Contribute () {
  const element = useRef(null)
  const [state, setState] = useState('idle')
  useEffect(() => {
    const listen = event => { setState(event.detail.state) }
    element.current.addEventListener('kwaai-state', listen)
    return () => { element.current?.removeEventListener('kwaai-state', listen) }
  }, [])
  return (
    <>
      <kwaai-node ref={element} relay={relay} theme='light' options={options} />
      <output>{state}</output>
    </>
  )
}

createRoot(document.querySelector('main')).render(<Contribute />)
