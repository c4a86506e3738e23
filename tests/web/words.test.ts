// All that people read stands in words.ts: nothing else of the page has a sentence, and every error has words.

import assert from 'node:assert/strict'
import { readdirSync, readFileSync } from 'node:fs'
import { test } from 'node:test'
import ts from 'typescript'
import { readWeights } from '../../web/page/serving.ts'
import { CHECKS, problemIn, RECEIPTS, WORDS } from '../../web/page/words.ts'

const PAGE = new URL('../../web/page/', import.meta.url)
const SHOWN = ['textContent', 'innerText', 'title', 'ariaLabel', 'ariaDescription', 'placeholder', 'alt']
const SAYS = ['say', 'notice', 'note', 'turn', 'problem', 'labelled', 'field'] // what they are given is read by people
const LETTERS = /\p{L}/u
const SENTENCE = /\p{L}{2,},? \p{L}|^\p{Lu}\p{Ll}+$/u // words in a row, or one with a capital

/** Texts within `node`, those in comparisons, keys and types left out. */
function literals (node: ts.Node): string[] {
  if (ts.isStringLiteralLike(node)) return [node.text]
  if (ts.isTemplateExpression(node)) return [node.head.text, ...node.templateSpans.flatMap(({ expression, literal }) => [literal.text, ...literals(expression)])]
  if (ts.isElementAccessExpression(node)) return []
  if (ts.isBinaryExpression(node) && /^[!=]==$/.test(node.operatorToken.getText())) return []
  if (ts.isCallExpression(node)) return node.arguments.flatMap(literals)
  return node.getChildren().flatMap(literals)
}

/** What a file says by itself: sentences anywhere, and any letters where something is shown. */
function spoken (source: string): string[] {
  const file = ts.createSourceFile('page.ts', source, ts.ScriptTarget.Latest, true)
  const found: string[] = []
  const visit = (node: ts.Node): void => {
    if (ts.isImportDeclaration(node)) return
    if (ts.isStringLiteralLike(node) && SENTENCE.test(node.text) && !isName(node)) found.push(node.text)
    if (ts.isTemplateExpression(node)) found.push(...literals(node).filter(text => SENTENCE.test(text)))
    if (ts.isBinaryExpression(node) && ts.isPropertyAccessExpression(node.left) && SHOWN.includes(node.left.name.text)) found.push(...literals(node.right).filter(text => LETTERS.test(text)))
    if (ts.isPropertyAssignment(node) && SHOWN.includes(node.name.getText())) found.push(...literals(node.initializer).filter(text => LETTERS.test(text)))
    if (ts.isCallExpression(node)) {
      const called = node.expression.getText().replace(/^.*\./, '')
      if (SAYS.includes(called)) found.push(...node.arguments.flatMap(literals).filter(text => LETTERS.test(text)))
      if (called === 'made') found.push(...node.arguments.slice(1, 2).flatMap(literals).filter(text => LETTERS.test(text)))
    }
    ts.forEachChild(node, visit)
  }
  visit(file)
  return found
}

/** Of a class, a key or an error that nobody sees. */
function isName (node: ts.StringLiteralLike): boolean {
  const { parent } = node
  if (ts.isNewExpression(parent) || ts.isLiteralTypeNode(parent)) return true
  return ts.isBinaryExpression(parent) && (parent.operatorToken.kind === ts.SyntaxKind.InKeyword || /\.(key|className)\b/.test(parent.getText())) || /^\S*className/.test(parent.parent.getText())
}

test('no file of the page but words.ts has anything to say', () => {
  const files = readdirSync(PAGE).filter(name => name.endsWith('.ts') && name !== 'words.ts')
  assert.ok(files.length > 10)
  for (const name of files) assert.deepEqual(spoken(readFileSync(new URL(name, PAGE), 'utf8')), [], name)
})

test('... which would be noticed', () => {
  for (const bad of ["say('done')", "made('p', 'Stop')", 'one.title = `now ${x}`', "const text = 'Stop it'", "Object.assign(a, { ariaLabel: on ? 'yes' : B })"]) assert.notDeepEqual(spoken(bad), [], bad)
  for (const good of ["made('p', WORDS.stop)", "say(state === 'serving' ? A : B)", "element('chat-log')"]) assert.deepEqual(spoken(good), [], good)
})

test('index.html has no words of its own either', () => {
  const html = readFileSync(new URL('index.html', PAGE), 'utf8')
  const texts = [...html.matchAll(/>([^<]+)</g)].map(([, text = '']) => text)
  const attributes = [...html.matchAll(/(?:aria-label|title|alt|placeholder|lang)="([^"]*)"/g)].map(([, text = '']) => text)
  for (const text of [...texts, ...attributes]) {
    assert.equal(text.replace(/\{(\w+)\}/g, (_, name: string) => WORDS[name] === undefined ? name : '').replace('KwaaiNet', '').trim(), '')
  }
})

test('every error of the Python side has words, and so has every check of the SDK', () => {
  const errors = readFileSync(new URL('../../pysrc/kwaainet/errors.py', import.meta.url), 'utf8')
  const classes = [...errors.matchAll(/^class (\w+)\(/gm)].map(([, name = '']) => name)
  assert.ok(classes.length > 20)
  const unknown = problemIn({ code: 'UsageError' })
  for (const code of classes.filter(name => !['KwaaiNetError', 'LocalError', 'UsageError'].includes(name))) assert.notEqual(problemIn({ code }), unknown, code)
  const sdk = ['origin', 'tab'].map(name => readFileSync(new URL(`../../web/sdk/${name}.ts`, import.meta.url), 'utf8')).join('')
  for (const [, code = ''] of sdk.matchAll(/new Problem\('([\w-]+)'/g)) assert.notEqual(problemIn({ code }), unknown, code)
  const checks = readFileSync(new URL('../../web/sdk/preflight.ts', import.meta.url), 'utf8')
  for (const [, name = ''] of checks.matchAll(/\{ name: '([^']+)', ok/g)) assert.ok(CHECKS[name], name)
})

test('a problem is said with its parts, and what is unknown is ours', () => {
  assert.match(problemIn({ code: 'blocks', values: { blocks: '9:12', most: '5' } }), /9:12.*0:5/)
  assert.match(problemIn({ code: 'unfit', values: { check: 'locks' } }), /Web Locks/)
  assert.match(problemIn({ code: 'NameError' }), /made a mistake/)
})

test('how weights are kept is read as the node says it', () => {
  assert.equal(readWeights("stored (69 MB, the file's numbers; prompts of 64 tokens and more in 16 bits), the best on wasm"), 'as the file has them, 69 MB, no weight rounded')
  assert.equal(readWeights('q8 (8 MB, rounded), asked for'), 'in 8 bits, 8.0 MB, rounded')
  assert.equal(readWeights(''), undefined)
})

test('work that was only paused did not end early', () => {
  const line = (code?: string): string => RECEIPTS.line(new Date(0), 'QmPeer', 'session', 1, 3, code).slice(6)
  assert.deepEqual([line(), line('Paused'), line('StreamReset')], ['QmPeer: 1 token in 3 s', 'QmPeer: 1 token in 3 s, until it was paused', 'QmPeer: 1 token in 3 s (ended early)'])
})
