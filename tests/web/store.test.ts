// Blobs against a folder in memory: what is kept, what goes first, what a full or cleared browser does.

import assert from 'node:assert/strict'
import { createHash } from 'node:crypto'
import test from 'node:test'
import { INDEX, PART, readRows } from '../../web/bridge/kept.ts'
import { type BlobOptions, Blobs, type Known } from '../../web/bridge/store.ts'
import { cacheEntries, clearCache } from '../../web/sdk/cache.ts'
import { MemoryFolder } from './memory_folder.ts'

const FILE = Uint8Array.from({ length: 1000 }, (_, index) => index % 256)
const PLENTY = async (): Promise<StorageEstimate> => ({ quota: 1e9, usage: 0 })

const digestOf = (data: Uint8Array): string => createHash('sha256').update(data).digest('hex')

let time = 0

async function opened (folder: MemoryFolder, options: BlobOptions = {}): Promise<Blobs> {
  return await Blobs.open(folder as unknown as FileSystemDirectoryHandle, { estimate: PLENTY, now: () => ++time, ...options })
}

/** A blob of its own of 100 bytes, which block `block` of a model needs. */
function blobOf (model: string, block: number): { data: Uint8Array<ArrayBuffer>, known: Known } {
  const data = new Uint8Array(100).fill(block)
  data.set(new TextEncoder().encode(model), 50)
  return { data, known: { digest: digestOf(data), length: 100, model, block } }
}

/** A session that keeps these blocks, and ends. */
async function keep (folder: MemoryFolder, model: string, blocks: number[], options: BlobOptions = {}): Promise<string[]> {
  const blobs = await opened(folder, options)
  const made = blocks.map(block => blobOf(model, block))
  blobs.expect(made.map(({ known }) => known), made.map(({ known }) => known))
  const said = []
  for (const { data, known } of made) said.push(await blobs.write(known.digest, data.slice()))
  await blobs.save()
  return said
}

const blocksOf = async (folder: MemoryFolder): Promise<string[]> =>
  [...(await readRows(folder as unknown as FileSystemDirectoryHandle)).values()].map(({ model, block }) => `${model}/${block}`).sort()

test('a blob comes back; a damaged one is dropped', async () => {
  const folder = new MemoryFolder()
  const blobs = await opened(folder)
  const digest = digestOf(FILE)
  assert.equal(await blobs.read(digest), null)
  assert.equal(await blobs.write(digest, FILE.slice()), '')
  assert.deepEqual(await blobs.read(digest), FILE)
  folder.files.get(digest)![3]! ^= 1
  assert.equal(await blobs.read(digest), null)
  assert.equal(folder.files.size, 0)
})

test('wrong bytes are refused; a browser that keeps nothing says why and what that means', async () => {
  const folder = new MemoryFolder()
  const blobs = await opened(folder)
  assert.equal(await blobs.write(digestOf(Uint8Array.of(1)), FILE.slice()), 'mismatch')
  assert.equal(blobs.room.kept, true)
  folder.room = 0
  assert.match(await blobs.write(digestOf(FILE), FILE.slice()), /no room/)
  assert.equal(folder.files.size, 0, 'no half-written file stays')
  assert.equal(blobs.room.kept, false)
  assert.match(blobs.room.message, /refused to keep.*fetched again at each start\. Free some disk space/)
})

test('the same bytes kept twice at once are kept', async () => {
  const blobs = await opened(new MemoryFolder())
  const digest = digestOf(FILE)
  assert.deepEqual(await Promise.all([blobs.write(digest, FILE.slice()), blobs.write(digest, FILE.slice())]), ['', ''])
  assert.equal(await blobs.write(digest, FILE.slice()), '')
  assert.deepEqual(await blobs.read(digest), FILE)
})

test('the block that was used longest ago goes first, and what is in use stays', async () => {
  const folder = new MemoryFolder()
  await keep(folder, 'old', [0, 1, 2])
  const again = await opened(folder)
  await again.read(blobOf('old', 0).known.digest)
  await again.save()
  assert.deepEqual(await keep(folder, 'new', [0, 1], { budget: 400 }), ['', ''])
  assert.deepEqual(await blocksOf(folder), ['new/0', 'new/1', 'old/0', 'old/2'])
  const said = await keep(folder, 'big', [0, 1, 2, 3, 4], { budget: 400 })
  assert.deepEqual([said.slice(0, 4), /no room/.test(said[4]!)], [['', '', '', ''], true])
  assert.deepEqual(await blocksOf(folder), ['big/0', 'big/1', 'big/2', 'big/3'])
})

test('a browser that refuses in the middle loses nothing that is needed: others make room', async () => {
  const folder = new MemoryFolder()
  await keep(folder, 'old', [0, 1])
  folder.room = 150
  assert.deepEqual(await keep(folder, 'new', [0, 1]), ['', ''])
  assert.deepEqual(await blocksOf(folder), ['new/0', 'new/1', 'old/1'])
})

test('too little room is told before anything is fetched', async () => {
  const { known } = blobOf('m', 0)
  const blobs = await opened(new MemoryFolder(), { estimate: async () => ({ quota: 150e6, usage: 30e6 }) })
  blobs.expect([known], [{ ...known, length: 90e6 }])
  const { kept, needed, room, message } = blobs.room
  assert.deepEqual([kept, needed, room], [false, 90e6, 75e6])
  assert.match(message, /the weights take 90 MB, and this browser gives 75 MB/)
})

test('who wants nothing kept is told of no problem', async () => {
  const folder = new MemoryFolder()
  assert.deepEqual(await keep(folder, 'm', [0], { budget: 0 }), [''])
  assert.equal(folder.files.has(blobOf('m', 0).known.digest), false)
})

test('a part grows where it ends, survives a restart, and goes when the whole is there', async () => {
  const folder = new MemoryFolder()
  const digest = digestOf(FILE)
  const blobs = await opened(folder)
  assert.equal(await blobs.readPart(digest), null)
  assert.equal(await blobs.writePart(digest, 0, FILE.slice(0, 300)), '')
  assert.notEqual(await blobs.writePart(digest, 400, FILE.slice(400, 500)), '', 'a gap is no part')
  assert.equal(await blobs.writePart(digest, 300, FILE.slice(300, 400)), '')
  const again = await opened(folder)
  assert.deepEqual(await again.readPart(digest), FILE.slice(0, 400))
  assert.equal(await again.read(digest), null, 'a part is not the blob')
  await again.write(digest, FILE.slice())
  assert.equal(await again.readPart(digest), null)
  assert.equal(folder.files.has(digest + PART), false)
})

test('a part that proved wrong is dropped', async () => {
  const folder = new MemoryFolder()
  const blobs = await opened(folder)
  await blobs.writePart(digestOf(FILE), 0, FILE.slice(0, 300))
  assert.equal(await blobs.writePart(digestOf(FILE), 0, new Uint8Array(0)), '')
  assert.equal(await blobs.readPart(digestOf(FILE)), null)
})

test('storage cleared under a running node is a blob that is absent, and can be kept again', async () => {
  const folder = new MemoryFolder()
  const blobs = await opened(folder)
  await blobs.write(digestOf(FILE), FILE.slice())
  folder.files.clear()
  assert.equal(await blobs.read(digestOf(FILE)), null)
  assert.equal(await blobs.write(digestOf(FILE), FILE.slice()), '')
})

test('an index that was cut short, or tells of files that are gone, does no harm', async () => {
  const folder = new MemoryFolder()
  await keep(folder, 'm', [0, 1])
  folder.files.delete(blobOf('m', 0).known.digest)
  assert.deepEqual(await blocksOf(folder), ['m/1'])
  folder.files.set(INDEX, folder.files.get(INDEX)!.slice(0, 20))
  assert.deepEqual(await blocksOf(folder), ['/null'])
  assert.deepEqual(await (await opened(folder)).read(blobOf('m', 1).known.digest), blobOf('m', 1).data)
})

const inBrowserOf = ({ storage }: MemoryFolder): void => { Object.defineProperty(navigator, 'storage', { value: storage, configurable: true }) }

test('people see what is kept, by blocks, and delete what they want', async () => {
  const folder = new MemoryFolder()
  inBrowserOf(folder)
  assert.deepEqual(await cacheEntries(), [])
  await keep(folder, 'a', [0, 1])
  await keep(folder, 'b', [7])
  const entries = await cacheEntries()
  assert.deepEqual(entries.map(({ model, block, bytes }) => [model, block, bytes]), [['b', 7, 100], ['a', 1, 100], ['a', 0, 100]])
  assert.ok(entries[0]!.lastUsed > entries[2]!.lastUsed)
  assert.equal(await clearCache({ model: 'a', block: 0 }), 100)
  assert.equal(await clearCache({ model: 'a' }), 100)
  assert.deepEqual((await cacheEntries()).map(({ model }) => model), ['b'])
  assert.equal(await clearCache(), 100)
  assert.deepEqual(await cacheEntries(), [])
})

test('all of it goes in one pass, and whoever serves meanwhile keeps what comes after', async () => {
  const folder = new MemoryFolder()
  inBrowserOf(folder)
  await keep(folder, 'a', [0, 1])
  const serving = await opened(folder)
  const singly: string[] = []
  const { removeEntry } = folder
  assert.equal(await clearCache(), 200)
  assert.deepEqual([folder.files.size, folder.gone], [0, false], 'the index, too')
  folder.gone = true // the moment between the two, or a browser that clears its storage
  assert.equal(await serving.write(digestOf(FILE), FILE.slice()), '')
  const access = await (await folder.getFileHandle(digestOf(FILE)) as FileSystemFileHandle).createSyncAccessHandle()
  await keep(folder, 'a', [2])
  folder.removeEntry = async name => {
    singly.push(name)
    await removeEntry.call(folder, name)
  }
  assert.equal(await clearCache(), 100, 'all but the one that is being written')
  assert.equal(singly.length, 2)
  assert.equal((await cacheEntries()).length, 1)
  access.close()
})

test('the index is written once it is quiet, and not for every use', async context => {
  context.mock.timers.enable({ apis: ['setTimeout'] })
  let now = 0
  context.mock.method(performance, 'now', () => now)
  const folder = new MemoryFolder()
  const blobs = await opened(folder)
  const written = (): boolean => folder.files.delete(INDEX)
  const use = async (): Promise<void> => { await blobs.write(digestOf(FILE), FILE.slice()) }
  const pass = async (time: number): Promise<void> => {
    now += time
    context.mock.timers.tick(time)
    for (let turn = 0; turn < 50; turn++) await Promise.resolve()
  }
  const times = []
  for (let second = 0; second < 24; second++) {
    if (second < 15) await use()
    await pass(900)
    if (written()) times.push(second)
  }
  assert.deepEqual(times, [11, 15], 'ten seconds after the first use, and one after the last')
})
