// Registers one device by the official Node SDKs, connects with what it got, sends a message, and prints how
// the registration went. Settings come as JSON in the first argument.
'use strict';

const { ProvisioningDeviceClient } = require('azure-iot-provisioning-device');
const { SymmetricKeySecurityClient } = require('azure-iot-security-symmetric-key');
const { X509Security } = require('azure-iot-security-x509');
const { Client, Message } = require('azure-iot-device');
const device = require('azure-iot-device-mqtt');

const settings = JSON.parse(process.argv[2]);

function transport() {
  const mqtt = require('azure-iot-provisioning-device-mqtt');
  const http = require('azure-iot-provisioning-device-http');
  return { mqtt: mqtt.Mqtt, 'mqtt-ws': mqtt.MqttWs, http: http.Http }[settings.protocol];
}

function proof() {
  if (settings.key) {
    return new SymmetricKeySecurityClient(settings.registrationId, settings.key);
  }
  return new X509Security(settings.registrationId, { cert: settings.cert, key: settings.certKey });
}

async function main() {
  const provisioning = ProvisioningDeviceClient.create(
    settings.host, settings.idScope, new (transport())(), proof());
  const state = await provisioning.register();

  const parts = `HostName=${state.assignedHub};DeviceId=${state.deviceId};`;
  const secret = settings.key ? `SharedAccessKey=${settings.key}` : 'x509=true';
  const Transport = settings.protocol === 'mqtt-ws' ? device.MqttWs : device.Mqtt;
  const client = Client.fromConnectionString(parts + secret, Transport);
  const options = { ca: settings.ca };
  if (!settings.key) {
    Object.assign(options, { cert: settings.cert, key: settings.certKey });
  }
  await client.setOptions(options);
  await client.open();
  await client.sendEvent(new Message(`from ${state.deviceId}`));
  await client.close();
  console.log(JSON.stringify(state));
}

main().then(() => process.exit(0), (error) => {
  console.error(error);
  process.exit(1);
});
