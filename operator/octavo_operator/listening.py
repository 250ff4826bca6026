"""Serving HTTP until cancelled."""

import asyncio
import ssl

from aiohttp import web

from octavo_operator.errors import SettingsError

CLOSE_SECONDS = 1.0  # for requests that are being answered


async def serve(app: web.Application, host: str, port: int, tls: ssl.SSLContext | None = None) -> None:
    """Answer until cancelled.

    Raises:
        SettingsError: the port cannot be listened on.
    """
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=CLOSE_SECONDS)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port, ssl_context=tls).start()
        await asyncio.Event().wait()
    except OSError as error:
        raise SettingsError(f"port {port} of {host} cannot be listened on: {error.strerror}") from error
    finally:
        await runner.cleanup()
