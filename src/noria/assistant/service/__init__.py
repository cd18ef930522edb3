"""The gateway: chat in the protocol of OpenAI, every request traced, bundles and experiments that can be operated."""
