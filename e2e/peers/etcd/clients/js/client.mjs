// A client of three members, with TLS and a user: the npm package etcd3.
import {readFileSync} from 'node:fs'
import {Etcd3} from 'etcd3'

const client = new Etcd3({
  hosts: ['https://127.0.0.1:12379', 'https://127.0.0.1:22379', 'https://127.0.0.1:32379'],
  credentials: {rootCertificate: readFileSync('tls/ca.pem')},
  auth: {username: 'app', password: 'app-secret'},
})

await client.put('app/js').value('1')
const watcher = await client.watch().key('app/js').create()
const event = new Promise(resolve => watcher.once('put', resolve))
await client.put('app/js').value('2')
console.log('watched:', (await event).value.toString())
await watcher.cancel()

const swapped = await client
  .if('app/js', 'Value', '==', '2')
  .then(client.put('app/js').value('3'))
  .commit()
console.log('swapped:', swapped.succeeded)

const refused = await client.put('other/js').value('1').then(() => null, error => error)
if (!/permission denied/.test(refused?.message)) throw new Error(`others' keys: ${refused}`)
console.log('js: ok')
client.close()
