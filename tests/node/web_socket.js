// A device or module of the official Node SDK over WebSocket: sends numbered messages, prints what comes in.
// node web_socket.js CONNECTION_STRING CA_FILE COUNT
'use strict';
const fs = require('fs');
const { Client, ModuleClient, Message } = require('azure-iot-device');
const { MqttWs } = require('azure-iot-device-mqtt');

const [connectionString, caFile, count] = process.argv.slice(2);
const isModule = connectionString.includes('ModuleId=');
const say = (what) => console.log(JSON.stringify(what));

async function main() {
  const client = (isModule ? ModuleClient : Client).fromConnectionString(connectionString, MqttWs);
  await client.setOptions({ ca: fs.readFileSync(caFile, 'utf-8') });
  if (isModule) {
    client.on('inputMessage', (input, message) => say({ input, data: message.getData().toString() }));
  }
  await client.open();
  say('open');
  for (let number = 0; number < Number(count); number++) {
    const message = new Message(String(number));
    await (isModule ? client.sendOutputEvent('out', message) : client.sendEvent(message));
  }
  say('sent');
  process.stdin.resume();
  process.stdin.on('end', () => client.close().then(() => process.exit(0)));
}

main().catch((error) => {
  say({ error: String(error) });
  process.exit(1);
});
