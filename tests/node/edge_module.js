// A module of an edge, with the official Node SDK over WebSocket: sends on what it gets, in capitals.
//   node edge_module.js PROTOCOL, which is mqtt or amqp
'use strict';
const { ModuleClient, Message } = require('azure-iot-device');

const protocol = process.argv[2];
const { AmqpWs, MqttWs } = require(`azure-iot-device-${protocol}`);

process.env.IOTEDGE_AUTHSCHEME = 'SasToken'; // of any case, says the SDK

async function main() {
  const client = await ModuleClient.fromEnvironment(AmqpWs || MqttWs);
  await client.open();
  client.on('inputMessage', (input, message) => {
    client.sendOutputEvent('out', new Message(message.getData().toString().toUpperCase()));
  });
  process.on('SIGTERM', () => client.close().then(() => process.exit(0)));
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
