// Signature V3 (ACS3-HMAC-SHA256) with the parameters in the query, as the SDKs send them.

import crypto from 'k6/crypto';

const id = __ENV.ALIBABA_CLOUD_ACCESS_KEY_ID;
const secret = __ENV.ALIBABA_CLOUD_ACCESS_KEY_SECRET;
const emptyBody = crypto.sha256('', 'hex');

// RFC 3986: encodeURIComponent leaves !'()* bare, the signature does not.
function encode(text) {
  return encodeURIComponent(text).replace(
    /[!'()*]/g,
    (letter) => '%' + letter.charCodeAt(0).toString(16).toUpperCase()
  );
}

function nonce() {
  return Array.from(new Uint8Array(crypto.randomBytes(16)), (byte) =>
    byte.toString(16).padStart(2, '0')
  ).join('');
}

// The URL and the headers of one call; good once.
export function signed(endpoint, parameters) {
  if (!id || !secret) {
    throw new Error('set ALIBABA_CLOUD_ACCESS_KEY_ID and ALIBABA_CLOUD_ACCESS_KEY_SECRET');
  }
  const query = Object.keys(parameters)
    .sort()
    .map((name) => `${encode(name)}=${encode(parameters[name])}`)
    .join('&');
  const headers = {
    accept: 'application/json',
    host: endpoint.replace(/^https?:\/\//, ''),
    'x-acs-action': 'SendMessage',
    'x-acs-content-sha256': emptyBody,
    'x-acs-date': new Date().toISOString().replace(/\.\d+Z$/, 'Z'),
    'x-acs-signature-nonce': nonce(),
    'x-acs-version': '2020-04-20',
  };
  const names = Object.keys(headers).sort();
  const canonical = [
    'POST',
    '/',
    query,
    ...names.map((name) => `${name}:${headers[name]}`),
    '',
    names.join(';'),
    emptyBody,
  ].join('\n');
  const algorithm = 'ACS3-HMAC-SHA256';
  const signature = crypto.hmac(
    'sha256',
    secret,
    `${algorithm}\n${crypto.sha256(canonical, 'hex')}`,
    'hex'
  );
  headers.Authorization =
    `${algorithm} Credential=${id},SignedHeaders=${names.join(';')},Signature=${signature}`;
  return { url: `${endpoint}/?${query}`, headers };
}
