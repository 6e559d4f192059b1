// Scenes with the official service SDK of Node, azure-iothub, over REST: node service.js SCENE
// Prints what it found as one line of JSON; the test that started it judges that.
'use strict'

const { Registry, Client } = require('azure-iothub')

const connectionString = process.env.IOTHUB_CONNECTION_STRING
const registry = Registry.fromConnectionString(connectionString)
const client = Client.fromConnectionString(connectionString)

async function body (call) {
  return (await call).responseBody
}

async function failure (call) {
  try {
    await call
  } catch (error) {
    const code = error.responseBody && JSON.parse(error.responseBody).errorCode
    return { name: error.name, status: error.response && error.response.statusCode, code }
  }
  return null
}

const scenes = {
  async devices () {
    const created = await body(registry.create({ deviceId: 'd1' }))
    const twice = await failure(registry.create({ deviceId: 'd1' }))
    const updated = await body(registry.update({ deviceId: 'd1', status: 'disabled' }))
    const read = await body(registry.get('d1'))
    await registry.create({ deviceId: 'd2', authentication: { symmetricKey: { primaryKey: '', secondaryKey: '' } } })
    const listed = (await body(registry.list())).map(device => device.deviceId)
    await registry.delete('d1')
    const gone = await failure(registry.get('d1'))
    return { created, twice, updated, read, listed, gone }
  },

  async bulk () {
    const added = await body(registry.addDevices([{ deviceId: 'b1' }, { deviceId: 'b2' }]))
    const updated = await body(registry.updateDevices([{ deviceId: 'b1', status: 'disabled' }], true))
    const status = (await body(registry.get('b1'))).status
    const removed = await body(registry.removeDevices([{ deviceId: 'b1' }], true))
    const left = (await body(registry.list())).map(device => device.deviceId)
    return { added, updated, status, removed, left }
  },

  async modules () {
    await registry.create({ deviceId: 'd1' })
    const added = await body(registry.addModule({ deviceId: 'd1', moduleId: 'm1', managedBy: 'me' }))
    const updated = await body(registry.updateModule({ deviceId: 'd1', moduleId: 'm1', managedBy: 'you' }, true))
    const listed = (await body(registry.getModulesOnDevice('d1'))).map(module => module.moduleId)
    await registry.removeModule('d1', 'm1')
    const gone = await failure(registry.getModule('d1', 'm1'))
    return { added, updated, listed, gone }
  },

  async twins () {
    await registry.create({ deviceId: 'd1' })
    await registry.addModule({ deviceId: 'd1', moduleId: 'm1' })
    const twin = await body(registry.getTwin('d1'))
    const version = twin.properties.desired.$version
    await twin.update({ tags: { site: 'a' }, properties: { desired: { x: 1 } } })
    const patched = await body(registry.getTwin('d1'))
    const ofModule = await body(registry.updateModuleTwin('d1', 'm1', { properties: { desired: { y: 2 } } }, '*'))
    const stale = await failure(registry.updateTwin('d1', { tags: { site: 'b' } }, 'AAAAAAAAAAE='))
    return {
      version,
      tags: patched.tags,
      desired: patched.properties.desired,
      ofModule: ofModule.properties.desired,
      stale
    }
  },

  async methods () {
    const called = await client.invokeDeviceMethod('answers', { methodName: 'ping', payload: { a: [1] } })
    const bare = await client.invokeDeviceMethod('answers', 'm1', { methodName: 'bare' })
    const away = await failure(client.invokeDeviceMethod('away', { methodName: 'ping' }))
    return { called: called.result, bare: bare.result, away }
  },

  async queries () {
    for (const number of [0, 1, 2, 3, 4]) await registry.create({ deviceId: `d${number}` })
    const query = registry.createQuery('SELECT * FROM devices', 2)
    const pages = []
    while (query.hasMoreResults) pages.push((await query.nextAsTwin()).result.map(twin => twin.deviceId))
    const raw = registry.createQuery("SELECT deviceId AS id FROM devices WHERE deviceId > 'd2'")
    return { pages, raw: (await raw.next()).result }
  },

  async configurations () {
    const content = { modulesContent: { $edgeAgent: { 'properties.desired.modules.x': {} } } }
    const added = await body(registry.addConfiguration({
      id: 'c1', schemaVersion: '1.0', content, targetCondition: '*', priority: 3, labels: { by: 'test' }
    }))
    const changed = await body(registry.updateConfiguration({ ...added, priority: 5 }))
    const listed = (await body(registry.getConfigurations())).map(each => each.id)
    await registry.removeConfiguration('c1')
    return { added, changed, listed, gone: await failure(registry.getConfiguration('c1')) }
  },

  async content () {
    await registry.create({ deviceId: 'e1', capabilities: { iotEdge: true } })
    await registry.create({ deviceId: 'd1' })
    const content = { modulesContent: { sensor: { 'properties.desired': { interval: 5 } } } }
    await registry.applyConfigurationContentOnDevice('e1', content)
    const refused = await failure(registry.applyConfigurationContentOnDevice('d1', content))
    const modules = (await body(registry.getModulesOnDevice('e1'))).map(module => module.moduleId)
    const twin = await body(registry.getModuleTwin('e1', 'sensor'))
    return { modules, desired: twin.properties.desired, refused }
  },

  async statistics () {
    await registry.create({ deviceId: 'd1' })
    return await body(registry.getRegistryStatistics())
  }
}

scenes[process.argv[2]]().then(
  found => console.log(JSON.stringify(found)),
  error => {
    console.error(error)
    process.exitCode = 1
  }
)
