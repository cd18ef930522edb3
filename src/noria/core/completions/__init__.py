"""The server's side of OpenAI's protocol: chat completions, images, and long work as jobs, once for every service."""
