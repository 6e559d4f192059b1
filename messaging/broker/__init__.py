"""The MQTT broker of the hub: topics that clients make up themselves. Source: spec sheet broker.md"""
