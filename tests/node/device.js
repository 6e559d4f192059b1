// A device or module with the official device SDK of Node, azure-iot-device over MQTT or AMQP, moved by a test:
//   node device.js CREDENTIAL KIND TRANSPORT
//   CREDENTIAL  a connection string, with x509=true for a certificate (files in CLIENT_CERT and CLIENT_KEY), or a
//               shared access signature, or edge for a module that takes everything from its environment
//   KIND        device or module
//   TRANSPORT   mqtt, mqtt-ws, amqp or amqp-ws
// Each line on standard input is a request [id, "name", argument ...]; each line on standard output is an answer
// {"id", "result"} or {"id", "error"}, or something that happened: {"event", ...}. With CONTROL=host:port the lines
// come and go on a connection to there instead.
'use strict'

const fs = require('fs')
const net = require('net')
const readline = require('readline')
const { Client, Message, ModuleClient } = require('azure-iot-device')

const [credential, kind, transport] = process.argv.slice(2)
const Kind = kind === 'module' ? ModuleClient : Client
const onAmqp = transport.startsWith('amqp')
const Transport = transportOf()
const statuses = {}
let client
let twin
let input = process.stdin
let output = process.stdout

function say (what) {
  output.write(JSON.stringify(what) + '\n')
}

function transportOf () {
  const { Amqp, AmqpWs, Mqtt, MqttWs } = require(onAmqp ? 'azure-iot-device-amqp' : 'azure-iot-device-mqtt')
  return { amqp: Amqp, 'amqp-ws': AmqpWs, mqtt: Mqtt, 'mqtt-ws': MqttWs }[transport]
}

async function clientOf () {
  if (credential.startsWith('SharedAccessSignature')) return Kind.fromSharedAccessSignature(credential, Transport)
  if (credential !== 'edge') return Kind.fromConnectionString(credential, Transport)
  process.env.IOTEDGE_AUTHSCHEME = 'SasToken' // of any case, says the SDK
  return ModuleClient.fromEnvironment(Transport)
}

// null: never answer
function called (request, response) {
  const status = statuses[request.methodName]
  if (status !== null) response.send(status, { name: request.methodName, payload: request.payload }, () => {})
}

function messageOf ({ body, properties = {}, ...system }) {
  const message = new Message(body)
  Object.assign(message, system)
  // MQTT carries what is there as text; AMQP has a type for it, milliseconds.
  if (onAmqp && message.expiryTimeUtc) message.expiryTimeUtc = Date.parse(message.expiryTimeUtc)
  for (const [name, value] of Object.entries(properties)) message.properties.add(name, value)
  return message
}

function shown (message) {
  const properties = Object.fromEntries(message.properties.propertyList.map(({ key, value }) => [key, value]))
  const { messageId, correlationId, userId, contentType, contentEncoding, expiryTimeUtc, ack } = message
  const expires = onAmqp && expiryTimeUtc ? new Date(Number(expiryTimeUtc)).toISOString() : expiryTimeUtc
  const system = { messageId, correlationId, userId, contentType, contentEncoding, expiryTimeUtc: expires, ack }
  return { body: message.getData().toString(), properties, sender: senderOf(message), ...system }
}

// Over MQTT that is told by properties.
function senderOf (message) {
  if (!onAmqp) return undefined
  const annotations = message.transportObj.message_annotations || {}
  return [annotations['iothub-connection-device-id'] || '', annotations['iothub-connection-module-id'] || '']
}

const does = {
  // The SDK connects again by itself after some errors; after others, such as a reset, it says `disconnect` and
  // leaves it to the program, which does it here when it `reopens`.
  async open (options, reopens) {
    if (process.env.CLIENT_CERT) {
      options.cert = fs.readFileSync(process.env.CLIENT_CERT, 'utf8')
      options.key = fs.readFileSync(process.env.CLIENT_KEY, 'utf8')
    }
    if (credential !== 'edge') await client.setOptions(options)
    client.on('disconnect', () => {
      say({ event: 'disconnect' })
      if (reopens) client.open().catch(error => say({ event: 'error', name: error.name }))
    })
    client.on('error', error => say({ event: 'error', name: error.name }))
    await client.open()
  },
  async send (message) {
    await client.sendEvent(messageOf(message))
  },
  async sendOutput (output, message) {
    await client.sendOutputEvent(output, messageOf(message))
  },
  // Numbers, each again until it is acknowledged, in their order.
  async sendMany (output, first, count) {
    for (let number = first; number < first + count; number++) {
      for (let done = false; !done;) {
        try {
          const message = new Message(String(number))
          await (output ? client.sendOutputEvent(output, message) : client.sendEvent(message))
          done = true
        } catch (error) {
          say({ event: 'retry', number, error: String(error) })
        }
      }
    }
  },
  async listen () {
    if (kind === 'module') {
      client.on('inputMessage', (input, message) => {
        say({ event: 'message', input, ...shown(message) })
        client.complete(message, () => {})
      })
      return
    }
    client.on('message', message => {
      say({ event: 'message', ...shown(message) })
      client.complete(message, () => {})
    })
  },
  async method (name, status) {
    if (!(name in statuses)) client[kind === 'module' ? 'onMethod' : 'onDeviceMethod'](name, called)
    statuses[name] = status
  },
  async invoke (device, module, parameters) {
    return module ? client.invokeMethod(device, module, parameters) : client.invokeMethod(device, parameters)
  },
  async twin () {
    twin = await client.getTwin()
    const { desired, reported } = twin.properties
    return { desired: { ...desired }, reported: { ...reported, update: undefined } }
  },
  async desired () {
    twin.on('properties.desired', patch => say({ event: 'desired', patch }))
  },
  report (patch) {
    return new Promise((resolve, reject) => {
      twin.properties.reported.update(patch, error => error ? reject(error) : resolve())
    })
  },
  async renew (signature) {
    await client.updateSharedAccessSignature(signature)
  },
  async close () {
    await client.close()
  }
}

async function main () {
  if (process.env.CONTROL) {
    const [host, port] = process.env.CONTROL.split(':')
    input = output = net.connect(Number(port), host)
  }
  client = await clientOf()
  if (process.env.CONTROL) say({ event: 'hello', module: process.env.IOTEDGE_MODULEID || '' })
  for await (const line of readline.createInterface({ input })) {
    const [id, name, ...rest] = JSON.parse(line)
    does[name](...rest).then(
      result => say({ id, result: result === undefined ? null : result }),
      error => say({ id, error: { name: error.name, message: error.message } })
    )
  }
  process.exit(0)
}

main()
