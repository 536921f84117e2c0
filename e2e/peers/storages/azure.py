#!/usr/bin/env python3
"""One signed request to Azure's storage, as its documentation says how: azure.py METHOD URL [FILE]. The account and its key come from
AZURE_STORAGE_ACCOUNT and AZURE_STORAGE_KEY. Prints what is answered."""
import base64
import hashlib
import hmac
import os
import sys
import urllib.parse
import urllib.request
from email.utils import formatdate

method, url = sys.argv[1:3]
body = open(sys.argv[3], "rb").read() if len(sys.argv) > 3 else b""
account, key = os.environ["AZURE_STORAGE_ACCOUNT"], os.environ["AZURE_STORAGE_KEY"]
parts = urllib.parse.urlsplit(url)
headers = {"x-ms-date": formatdate(usegmt=True), "x-ms-version": "2021-12-02"}
if body:
    headers["x-ms-blob-type"] = "BlockBlob"
queries = sorted(urllib.parse.parse_qsl(parts.query))
signed = [method, "", "", str(len(body) or ""), "", "application/octet-stream" if body else "", *[""] * 6]
signed += [f"{name}:{value}" for name, value in sorted(headers.items())]
signed += [f"/{account}{parts.path}", *[f"{name}:{value}" for name, value in queries]]
digest = hmac.new(base64.b64decode(key), "\n".join(signed).encode(), hashlib.sha256).digest()
headers["Authorization"] = f"SharedKey {account}:{base64.b64encode(digest).decode()}"
if body:
    headers["Content-Type"] = "application/octet-stream"
request = urllib.request.Request(url, data=body or None, headers=headers, method=method)
with urllib.request.urlopen(request, timeout=30) as answer:
    sys.stdout.buffer.write(answer.read())
