// Scenes with the official service SDK of Node, azure-iothub, over AMQP: node service_amqp.js SCENE
// Prints what it found as one line of JSON; the test that started it judges that.
'use strict'

const { Client } = require('azure-iothub')
const { Message } = require('azure-iot-common')
const { AmqpWs } = require('azure-iothub/dist/amqp_ws')

const transport = process.env.OVER === 'AMQP-WS' ? AmqpWs : undefined

function connect (connectionString) {
  return Client.fromConnectionString(connectionString || process.env.IOTHUB_CONNECTION_STRING, transport)
}

function message (body, options = {}) {
  const made = new Message(body)
  for (const [name, value] of Object.entries(options.properties || {})) made.properties.add(name, value)
  delete options.properties
  return Object.assign(made, options)
}

async function failure (call) {
  try {
    await call
  } catch (error) {
    const cause = error.amqpError || {} // where it is an error of its own, the SDK wraps it into a plain one
    return { name: error.name === 'Error' ? cause.name : error.name, condition: cause.condition }
  }
  return null
}

// Resolves with the next batch of feedback; `settle` says what becomes of it.
async function feedback (client, settle) {
  const answer = await client.getFeedbackReceiver()
  const receiver = answer.result || answer
  return new Promise((resolve, reject) => {
    receiver.once('error', reject)
    const take = batch => {
      receiver.removeListener('error', reject)
      const records = JSON.parse(batch.getData().toString())
      settle(receiver, batch).then(() => resolve({ records, contentType: batch.contentType }), reject)
    }
    receiver.on('message', take)
  })
}

const complete = (receiver, batch) => receiver.complete(batch)

const scenes = {
  async send () {
    const client = connect()
    await client.open()
    await client.send('d1', 'a text')
    await client.send('d1', message('all of it', {
      messageId: '70e01b1e-4a6f-4b62-a5c5-1b8a5d5b6f6e',
      correlationId: 'c1',
      contentType: 'text/plain',
      contentEncoding: 'utf-8',
      ack: 'full',
      expiryTimeUtc: Date.now() + 3600000,
      properties: { p: 'v', 'odd name': 'ä/&' }
    }))
    await client.close()
    return {}
  },

  async refusals () {
    const client = connect()
    await client.open()
    const found = {
      unknown: await failure(client.send('nobody', 'x')),
      large: await failure(client.send('d1', 'x'.repeat(64 * 1024 + 1))),
      ack: await failure(client.send('d1', message('x', { ack: 'perhaps' })))
    }
    for (let count = 0; count < 50; count++) await client.send('d1', String(count))
    found.full = await failure(client.send('d1', 'one more'))
    await client.close()
    return found
  },

  async strangers () {
    const found = {}
    for (const [name, connectionString] of Object.entries(JSON.parse(process.env.STRANGERS))) {
      const client = connect(connectionString)
      client.setRetryPolicy({ shouldRetry: () => false, nextRetryTimeout: () => 0 })
      found[name] = await failure(client.open().then(() => client.send('d1', 'x')))
      await client.close().catch(() => {})
    }
    return found
  },

  async feedback () {
    const client = connect()
    await client.open()
    const waiting = feedback(client, complete)
    await client.send('d1', message('x', { messageId: 'taken', ack: 'positive' }))
    const found = await waiting
    await client.close()
    return found
  },

  async files () {
    const client = connect()
    await client.open()
    const answer = await client.getFileNotificationReceiver()
    const receiver = answer.result || answer
    const came = []
    receiver.on('message', notification => came.push(notification))
    await client.send('d1', 'behind it')
    await client.close()
    return { came: came.length }
  }
}

scenes[process.argv[2]]().then(
  found => { console.log(JSON.stringify(found)); process.exit(0) },
  error => { console.error(error); process.exit(1) }
)
