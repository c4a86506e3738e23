import { mount } from 'svelte'
import Contribute from './Contribute.svelte'

mount(Contribute, { target: document.querySelector('main') })
