// A real authorization server for the tests: npm's oidc-provider, an API that asks it, an administrator.
//
//     node server.mjs '{"access_token_ttl": 3}'
//
// prints one line, {"issuer": "http://127.0.0.1:PORT"}, and serves until its stdin ends or it gets
// SIGTERM, so whoever starts it must hold its stdin open and can never leave an orphan behind.
//
// Protocol and forms are oidc-provider's own; nothing here imitates them. Ours are only
//   /api/...      opaque tokens are looked up, as a resource server next to the provider would; a token that is
//                 bound to a key needs a DPoP proof, with a nonce of the API's own if `dpop_nonces` is set
//   /_test/...    counts, settings, and what an administrator does behind the clients' backs
// and two ways to hurt a client: token answers can be late, or lost after the provider has acted.

import { generateKeyPairSync, hash, randomBytes } from 'node:crypto';
import { createServer } from 'node:http';
import { createServer as createTlsServer } from 'node:https';

import { EmbeddedJWK, calculateJwkThumbprint, jwtVerify } from 'jose';
import { Provider, errors } from 'oidc-provider';

console.info = console.error; // stdout carries the one line and nothing else

const settings = {
  port: 0,
  access_token_ttl: 3600, // seconds, as are the other lifetimes
  refresh_token_ttl: 14 * 24 * 3600,
  device_code_ttl: 600,
  rotation: true,
  id_token_claims: false, // true: name and email in the ID token too, not only at userinfo
  redirect_uris: ['http://127.0.0.1/callback'], // a native client: any port
  par_required: false, // RFC 9126
  registration: false, // RFC 7591, for everybody
  resources: {}, // RFC 8707: the APIs, each with the format of its access tokens, "opaque" or "jwt"
  token_delay: 0, // seconds before the provider sees a token request
  drop_token_answers: 0, // so many refreshes are carried out, and their answers lost
  dpop_nonces: false, // true: the provider and the API each want a nonce of theirs in a proof
  clients: [], // more of them, as oidc-provider has them
  tls: null, // {key, cert, ca} (PEM): the end points are there over TLS too, for clients with certificates
  ...JSON.parse(process.argv[2] ?? '{}'),
};
const initialSettings = { ...settings };
const settledAtStart = [
  'port', 'id_token_claims', 'redirect_uris', 'par_required', 'registration', 'resources', 'clients', 'tls',
];

const notebook = {
  client_id: 'notebook',
  client_name: 'Notebook',
  application_type: 'native',
  token_endpoint_auth_method: 'none',
  grant_types: ['authorization_code', 'refresh_token', 'urn:ietf:params:oauth:grant-type:device_code'],
  response_types: ['code'],
  redirect_uris: settings.redirect_uris,
  post_logout_redirect_uris: ['http://127.0.0.1/signed-out'],
};
const bound = { ...notebook, client_id: 'bound', dpop_bound_access_tokens: true }; // gets nothing without a proof
const service = {
  client_id: 'service',
  client_secret: 'service-secret-for-the-tests-only',
  token_endpoint_auth_method: 'client_secret_basic',
  grant_types: ['client_credentials'],
  response_types: [],
  redirect_uris: [],
};

// ---------------------------------------------------------------------------------------- counting

const zero = () => ({
  token_requests: 0, // at the token end point, whatever became of them
  refreshes_ok: 0,
  refusals: 0, // errors of the token end point, but for "still pending"
  refusals_by_error: {},
  replays: 0, // a refresh token presented after it was consumed, or twice at the same time
  dropped: 0, // answers of ours that never reached the client
  revocations: 0, // tokens that a revocation request really ended
  api_ok: 0,
  api_401: 0,
  api_nonces: 0, // calls that were refused for the nonce in their proof
  token_nonces: 0, // token requests, likewise; they are not among the refusals
});
let counts = zero();

// Ids of consumed refresh tokens. The record itself dies with its family at the first replay;
// the second replay is still one.
const spent = new Set();

const route = () => Provider.ctx?.oidc?.route;

// ---------------------------------------------------------------------------------------- storage

const shelves = new Map(); // model name -> id -> payload

// oidc-provider's adapter. Expired records stay, so that the provider can tell "expired" from "never seen".
class Records {
  constructor(model) {
    this.model = model;
    if (!shelves.has(model)) shelves.set(model, new Map());
    this.records = shelves.get(model);
  }

  async upsert(id, payload) {
    this.records.set(id, payload);
  }

  async find(id) {
    if (this.model === 'RefreshToken' && route() === 'token' && spent.has(id)) counts.replays += 1;
    return this.records.get(id);
  }

  async findByUid(uid) {
    return this.#first((payload) => payload.uid === uid);
  }

  async findByUserCode(userCode) {
    return this.#first((payload) => payload.userCode === userCode);
  }

  async consume(id) {
    if (this.model === 'RefreshToken') {
      // Two requests were under way together, and the provider had found the token unspent for both.
      if (spent.has(id)) counts.replays += 1;
      spent.add(id);
    }
    const payload = this.records.get(id);
    if (!payload) throw new errors.InvalidGrant('revoked while it was being used');
    payload.consumed = Math.floor(Date.now() / 1000);
  }

  async destroy(id) {
    this.records.delete(id);
  }

  async revokeByGrantId(grantId) {
    for (const [id, payload] of this.records) {
      if (payload.grantId === grantId) this.records.delete(id);
    }
  }

  #first(matches) {
    for (const payload of this.records.values()) if (matches(payload)) return payload;
    return undefined;
  }
}

function destroy(models, account) {
  let destroyed = 0;
  for (const model of models) {
    for (const [id, payload] of shelves.get(model) ?? []) {
      if (account === undefined || payload.accountId === account) {
        shelves.get(model).delete(id);
        destroyed += 1;
      }
    }
  }
  return { destroyed };
}

// ---------------------------------------------------------------------------------------- provider

function configuration(aliases) {
  const { privateKey } = generateKeyPairSync('rsa', { modulusLength: 2048 });
  return {
    adapter: Records,
    clients: [notebook, bound, service, ...settings.clients],
    clientAuthMethods: [
      'none', 'client_secret_basic', 'client_secret_post', 'client_secret_jwt', 'private_key_jwt',
      ...(settings.tls ? ['tls_client_auth', 'self_signed_tls_client_auth'] : []),
    ],
    discovery: aliases ? { mtls_endpoint_aliases: aliases } : {},
    claims: { openid: ['sub'], profile: ['name'], email: ['email', 'email_verified'] },
    clockTolerance: 0, // a lifetime of 2 seconds ends after 2 seconds
    conformIdTokenClaims: !settings.id_token_claims,
    cookies: { keys: [randomBytes(16).toString('hex')] },
    features: {
      clientCredentials: { enabled: true },
      devInteractions: { enabled: true }, // login and consent as plain forms; every password is right
      dPoP: { enabled: true, nonceSecret: randomBytes(32), requireNonce: () => settings.dpop_nonces },
      deviceFlow: { enabled: true },
      introspection: { enabled: true },
      pushedAuthorizationRequests: { enabled: true, requirePushedAuthorizationRequests: settings.par_required },
      registration: { enabled: settings.registration },
      resourceIndicators: {
        enabled: true,
        defaultResource: () => undefined,
        getResourceServerInfo: (_ctx, resource) => {
          const accessTokenFormat = settings.resources[resource];
          if (!accessTokenFormat) throw new errors.InvalidTarget();
          return { scope: 'runs:read', audience: resource, accessTokenFormat, jwt: { sign: { alg: 'RS256' } } };
        },
      },
      mTLS: settings.tls ? {
        enabled: true,
        selfSignedTlsClientAuth: true,
        tlsClientAuth: true,
        getCertificate: (ctx) => ctx.socket.getPeerX509Certificate?.(),
        certificateAuthorized: (ctx) => ctx.socket.authorized === true,
        certificateSubjectMatches: (ctx, property, expected) => property === 'tls_client_auth_san_dns'
          && ctx.socket.getPeerX509Certificate().subjectAltName === `DNS:${expected}`,
      } : { enabled: false },
      revocation: { enabled: true },
      rpInitiatedLogout: { enabled: true },
      userinfo: { enabled: true },
    },
    findAccount: (_ctx, sub) => ({
      accountId: sub,
      claims: () => ({
        sub,
        name: sub.charAt(0).toUpperCase() + sub.slice(1),
        email: `${sub}@example.org`,
        email_verified: true,
      }),
    }),
    jwks: { keys: [{ ...privateKey.export({ format: 'jwk' }), alg: 'RS256', use: 'sig', kid: 'tests' }] },
    pkce: { required: () => true },
    rotateRefreshToken: () => settings.rotation,
    ttl: {
      AccessToken: () => settings.access_token_ttl,
      AuthorizationCode: 60,
      ClientCredentials: () => settings.access_token_ttl,
      DeviceCode: () => settings.device_code_ttl,
      Grant: 14 * 24 * 3600,
      IdToken: 3600,
      Interaction: 600,
      RefreshToken: () => settings.refresh_token_ttl,
      Session: 14 * 24 * 3600,
    },
  };
}

function count(provider) {
  provider.on('grant.success', ({ oidc }) => {
    if (oidc.params.grant_type === 'refresh_token') counts.refreshes_ok += 1;
  });
  provider.on('grant.error', (_ctx, { error }) => {
    if (error === 'authorization_pending' || error === 'slow_down') return;
    if (error === 'use_dpop_nonce') {
      counts.token_nonces += 1;
      return;
    }
    counts.refusals += 1;
    counts.refusals_by_error[error] = (counts.refusals_by_error[error] ?? 0) + 1;
  });
  for (const kind of ['access_token', 'client_credentials', 'refresh_token']) {
    provider.on(`${kind}.destroyed`, () => {
      if (route() === 'revocation') counts.revocations += 1;
    });
  }
  provider.on('server_error', (_ctx, error) => console.error(error));
}

// ---------------------------------------------------------------------------------------- our paths

async function bodyOf(ctx) {
  const chunks = [];
  for await (const chunk of ctx.req) chunks.push(chunk);
  return Buffer.concat(chunks);
}

// What RFC 9449 section 4.3 has an API check, by the library that oidc-provider itself uses.
const proofs = new Set(); // identifiers of those that were accepted
let apiNonce = randomBytes(9).toString('base64url');

async function proofError(ctx, value, jkt) {
  let proof;
  try {
    proof = await jwtVerify(ctx.get('DPoP'), EmbeddedJWK, { typ: 'dpop+jwt', algorithms: ['ES256'], maxTokenAge: 60 });
  } catch {
      return 'invalid_dpop_proof';
  }
  const { payload, protectedHeader } = proof;
  const good = payload.htm === ctx.method
    && payload.htu === `${ctx.protocol}://${ctx.host}${ctx.path}`
    && payload.ath === hash('sha256', value, 'base64url')
    && payload.jti && !proofs.has(payload.jti);
  if (!good) return 'invalid_dpop_proof';
  proofs.add(payload.jti);
  if (settings.dpop_nonces && payload.nonce !== apiNonce) return 'use_dpop_nonce';
  return jkt === await calculateJwkThumbprint(protectedHeader.jwk) ? undefined : 'invalid_token';
}

async function protectedApi(ctx, provider) {
  const received = await bodyOf(ctx);
  const [, scheme, value] = /^(Bearer|DPoP) (\S+)$/i.exec(ctx.get('Authorization')) ?? [];
  const token = (await provider.AccessToken.find(value)) ?? (await provider.ClientCredentials.find(value));
  const byProof = scheme?.toLowerCase() === 'dpop';
  let error = token?.isValid && Boolean(token.jkt) === byProof ? undefined : 'invalid_token';
  if (!error && byProof) error = await proofError(ctx, value, token.jkt);
  if (byProof && settings.dpop_nonces) ctx.set('DPoP-Nonce', apiNonce);
  if (error) {
    counts[error === 'use_dpop_nonce' ? 'api_nonces' : 'api_401'] += 1;
    ctx.status = 401;
    // RFC 6750 section 3: whoever sent no token at all is told of no error.
    ctx.set('WWW-Authenticate', value ? `${byProof ? 'DPoP' : 'Bearer'} error="${error}"` : 'Bearer realm="api"');
    ctx.body = { error: value ? error : 'no_token' };
    return;
  }
  counts.api_ok += 1;
  ctx.body = {
    subject: token.accountId ?? token.clientId,
    client_id: token.clientId,
    audience: token.aud ?? '',
    scope: token.scope ?? '',
    method: ctx.method,
    bytes: received.length,
  };
}

const administrator = {
  'GET /_test/stats': () => counts,
  'POST /_test/reset': ({ everything = false }) => {
    counts = zero();
    if (everything) {
      Object.assign(settings, initialSettings);
      destroy(shelves.keys());
    }
    return counts;
  },
  'POST /_test/config': (changes) => {
    const refused = Object.keys(changes).filter((name) => !(name in settings) || settledAtStart.includes(name));
    if (refused.length) throw new RangeError(`cannot be set at run time: ${refused}`);
    return Object.assign(settings, changes);
  },
  'POST /_test/end_session': ({ account }) => destroy(shelves.keys(), account),
  'POST /_test/renew_nonces': () => {
    apiNonce = randomBytes(9).toString('base64url');
    return {};
  },
  'POST /_test/revoke_access_tokens': ({ account }) => destroy(['AccessToken', 'ClientCredentials'], account),
};

const pause = (seconds) => new Promise((resolve) => { setTimeout(resolve, 1000 * seconds); });

async function tokenEndpoint(ctx, next) {
  counts.token_requests += 1;
  if (settings.token_delay) await pause(settings.token_delay);
  await next();
  const refreshed = ctx.status === 200 && ctx.oidc.params.grant_type === 'refresh_token';
  if (refreshed && settings.drop_token_answers > 0) {
    settings.drop_token_answers -= 1;
    counts.dropped += 1;
    ctx.respond = false;
    ctx.req.socket.destroy();
  }
}

function ours(provider) {
  return async (ctx, next) => {
    // The provider's pages ask for a web font; a browser without a way out would wait for it.
    ctx.set('Content-Security-Policy', "style-src 'unsafe-inline'");
    const asked = `${ctx.method} ${ctx.path}`;
    if (ctx.path.startsWith('/api/')) {
      await protectedApi(ctx, provider);
    } else if (asked in administrator) {
      const body = await bodyOf(ctx);
      try {
        ctx.body = administrator[asked](body.length ? JSON.parse(body) : {});
      } catch (error) {
        ctx.status = 400;
        ctx.body = { error: String(error) };
      }
    } else if (asked === 'POST /token') {
      await tokenEndpoint(ctx, next);
    } else {
      await next();
    }
  };
}

// ---------------------------------------------------------------------------------------- start, stop

let handle; // exists once the port, hence the issuer, is known
const server = createServer((request, response) => handle(request, response));
server.listen(settings.port, '127.0.0.1', () => {
  const issuer = `http://127.0.0.1:${server.address().port}`;
  const ready = (aliases) => {
    const provider = new Provider(issuer, configuration(aliases));
    count(provider);
    provider.use(ours(provider));
    handle = provider.callback();
    process.stdout.write(`${JSON.stringify({ issuer })}\n`);
  };
  if (!settings.tls) {
    ready();
    return;
  }
  // Whoever comes without a certificate, or with one of its own making, is judged by the provider.
  const options = { ...settings.tls, requestCert: true, rejectUnauthorized: false };
  const mutual = createTlsServer(options, (request, response) => handle(request, response));
  mutual.listen(0, '127.0.0.1', () => {
    const at = `https://127.0.0.1:${mutual.address().port}`;
    ready({ token_endpoint: `${at}/token`, revocation_endpoint: `${at}/token/revocation` });
  });
});

process.on('SIGTERM', () => process.exit(0));
process.stdin.on('end', () => process.exit(0)).on('error', () => process.exit(0)).resume();
