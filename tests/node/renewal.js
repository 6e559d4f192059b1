// A module of the official Node SDK that renews its token every 2 s, and sends or receives numbered messages.
// node renewal.js PROTOCOL CONNECTION_STRING CA_FILE SECONDS: sends so long, then prints what was acknowledged.
// node renewal.js PROTOCOL CONNECTION_STRING CA_FILE: prints what comes in. PROTOCOL is mqtt or amqp.
'use strict';
const fs = require('fs');
const { Message, ModuleClient, SharedAccessKeyAuthenticationProvider } = require('azure-iot-device');

const [protocol, connectionString, caFile, seconds] = process.argv.slice(2);
const { Amqp, Mqtt } = require(`azure-iot-device-${protocol}`);
const VALID_S = 5;
const MARGIN_S = 3; // a new token so long before the end
const say = (what) => console.log(JSON.stringify(what));
const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

async function send(client) {
  const sent = [];
  const ends = Date.now() + Number(seconds) * 1000;
  for (let number = 0; Date.now() < ends; number++) {
    await client.sendOutputEvent('out', new Message(String(number)));
    sent.push(number);
    await pause(5);
  }
  say(sent);
}

async function main() {
  const tokens = SharedAccessKeyAuthenticationProvider.fromConnectionString(connectionString, VALID_S, MARGIN_S);
  const client = ModuleClient.fromAuthenticationProvider(tokens, Amqp || Mqtt);
  await client.setOptions({ ca: fs.readFileSync(caFile, 'utf-8') });
  if (!seconds) {
    client.on('inputMessage', (input, message) => {
      say(Number(message.getData().toString()));
      client.complete(message, () => {});
    });
  }
  await client.open();
  say('open');
  if (seconds) await send(client);
  process.stdin.resume();
  process.stdin.on('end', () => client.close().then(() => process.exit(0)));
}

main().catch((error) => {
  say({ error: String(error) });
  process.exit(1);
});
