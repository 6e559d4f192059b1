// A device or module with the official device SDK of Node, azure-iot-device over MQTT, moved by a test:
//   node device.js CREDENTIAL KIND TRANSPORT
//   CREDENTIAL  a connection string, with x509=true for a certificate (files in CLIENT_CERT and CLIENT_KEY),
//               or a shared access signature
//   KIND        device or module
//   TRANSPORT   mqtt or mqtt-ws
// Each line on standard input is a request [id, "name", argument ...]; each line on standard output is an answer
// {"id", "result"} or {"id", "error"}, or something that happened: {"event", ...}.
'use strict'

const fs = require('fs')
const readline = require('readline')
const { Client, Message, ModuleClient } = require('azure-iot-device')
const { Mqtt, MqttWs } = require('azure-iot-device-mqtt')

const [credential, kind, transport] = process.argv.slice(2)
const Kind = kind === 'module' ? ModuleClient : Client
const Transport = transport === 'mqtt-ws' ? MqttWs : Mqtt
const client = credential.startsWith('SharedAccessSignature')
  ? Kind.fromSharedAccessSignature(credential, Transport)
  : Kind.fromConnectionString(credential, Transport)
let twin

function say (what) {
  process.stdout.write(JSON.stringify(what) + '\n')
}

function messageOf ({ body, properties = {}, ...system }) {
  const message = new Message(body)
  Object.assign(message, system)
  for (const [name, value] of Object.entries(properties)) message.properties.add(name, value)
  return message
}

function shown (message) {
  const properties = Object.fromEntries(message.properties.propertyList.map(({ key, value }) => [key, value]))
  const { messageId, correlationId, contentType, contentEncoding, ack } = message
  return { body: message.getData().toString(), properties, messageId, correlationId, contentType, contentEncoding, ack }
}

const does = {
  async open (options) {
    if (process.env.CLIENT_CERT) {
      options.cert = fs.readFileSync(process.env.CLIENT_CERT, 'utf8')
      options.key = fs.readFileSync(process.env.CLIENT_KEY, 'utf8')
    }
    await client.setOptions(options)
    client.on('disconnect', () => say({ event: 'disconnect' }))
    client.on('error', error => say({ event: 'error', name: error.name }))
    await client.open()
  },
  async send (message) {
    await client.sendEvent(messageOf(message))
  },
  async sendOutput (output, message) {
    await client.sendOutputEvent(output, messageOf(message))
  },
  async listen () {
    client.on('message', message => {
      say({ event: 'message', ...shown(message) })
      client.complete(message, () => {})
    })
  },
  async method (name, status) {
    client[kind === 'module' ? 'onMethod' : 'onDeviceMethod'](name, (request, response) => {
      response.send(status, { name: request.methodName, payload: request.payload }, () => {})
    })
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
  for await (const line of readline.createInterface({ input: process.stdin })) {
    const [id, name, ...rest] = JSON.parse(line)
    does[name](...rest).then(
      result => say({ id, result: result === undefined ? null : result }),
      error => say({ id, error: { name: error.name, message: error.message } })
    )
  }
  process.exit(0)
}

main()
