// Google's published Node client for Cloud KMS, unchanged, over mTLS. Only the endpoint and the credentials are ours.
// Environment: tools/dev-instance writes it (dev.env). Each check has its denial or tamper twin.
import assert from 'node:assert/strict';
import fs from 'node:fs';
import test from 'node:test';
import kms from '@google-cloud/kms';
import {grpc} from 'google-gax';

const env = process.env;
const [host, port] = [env.KMS_ENDPOINT.replace(/:\d+$/, ''), Number(env.KMS_ENDPOINT.replace(/.*:/, ''))];
const clientAs = role =>
  new kms.KeyManagementServiceClient({
    apiEndpoint: host,
    port,
    sslCreds: grpc.credentials.createSsl(
      fs.readFileSync(env.KMS_CA),
      fs.readFileSync(env[`KMS_${role}_KEY`]),
      fs.readFileSync(env[`KMS_${role}_CERT`])
    ),
  });
const keyadmin = clientAs('KEYADMIN');
const service = clientAs('SERVICE');
const other = clientAs('SERVICE2');
const location = `projects/${env.KMS_TENANT}/locations/${env.KMS_LOCATION}`;
const ringId = `interop-${Date.now()}`;
const ring = `${location}/keyRings/${ringId}`;
const key = `${ring}/cryptoKeys/email`;
const code = grpc.status;
const fails = (promise, status, reason) =>
  assert.rejects(promise, e => {
    assert.equal(e.code, status, e.message);
    if (reason) assert.equal(e.reason, reason, e.message);
    return true;
  });

// CRC-32C by table, independent of the server's.
const table = Array.from({length: 256}, (_, n) => {
  for (let i = 0; i < 8; i++) n = n & 1 ? (n >>> 1) ^ 0x82f63b78 : n >>> 1;
  return n >>> 0;
});
const crc32c = bytes => {
  let c = 0xffffffff;
  for (const b of bytes) c = table[(c ^ b) & 0xff] ^ (c >>> 8);
  return {value: (c ^ 0xffffffff) >>> 0};
};

test('key rings and keys', async () => {
  const [r] = await keyadmin.createKeyRing({parent: location, keyRingId: ringId, keyRing: {}});
  assert.equal(r.name, ring);
  await fails(keyadmin.createKeyRing({parent: location, keyRingId: ringId, keyRing: {}}), code.ALREADY_EXISTS);
  const [k] = await keyadmin.createCryptoKey({
    parent: ring,
    cryptoKeyId: 'email',
    cryptoKey: {purpose: 'ENCRYPT_DECRYPT', labels: {env: 'test'}},
  });
  assert.equal(k.primary.name, `${key}/cryptoKeyVersions/1`);
  assert.equal(k.primary.state, 'ENABLED');
  const [again] = await keyadmin.getCryptoKey({name: key});
  assert.deepEqual(again.labels, {env: 'test'});
  await fails(service.createKeyRing({parent: location, keyRingId: 'x', keyRing: {}}), code.PERMISSION_DENIED);
});

test('encrypt and decrypt with checksums', async () => {
  const plaintext = Buffer.from('jané@example.com');
  const aad = Buffer.from('column=email');
  const [e] = await service.encrypt({
    name: key,
    plaintext,
    additionalAuthenticatedData: aad,
    plaintextCrc32c: crc32c(plaintext),
    additionalAuthenticatedDataCrc32c: crc32c(aad),
  });
  assert.equal(e.name, `${key}/cryptoKeyVersions/1`);
  assert.equal(e.verifiedPlaintextCrc32c, true);
  assert.equal(e.verifiedAdditionalAuthenticatedDataCrc32c, true);
  assert.equal(Number(e.ciphertextCrc32c.value), crc32c(e.ciphertext).value);
  const [d] = await service.decrypt({
    name: key,
    ciphertext: e.ciphertext,
    additionalAuthenticatedData: aad,
    ciphertextCrc32c: crc32c(e.ciphertext),
  });
  assert.deepEqual(Buffer.from(d.plaintext), plaintext);
  assert.equal(Number(d.plaintextCrc32c.value), crc32c(plaintext).value);
  assert.equal(d.usedPrimary, true);

  await fails(service.encrypt({name: key, plaintext, plaintextCrc32c: {value: 1}}), code.INVALID_ARGUMENT, 'CRC32C_MISMATCH');
  await fails(service.decrypt({name: key, ciphertext: e.ciphertext}), code.INVALID_ARGUMENT, 'CIPHERTEXT');
  const bent = Buffer.from(e.ciphertext);
  bent[bent.length - 1] ^= 1;
  await fails(service.decrypt({name: key, ciphertext: bent, additionalAuthenticatedData: aad}), code.INVALID_ARGUMENT, 'CIPHERTEXT');
  await fails(keyadmin.encrypt({name: key, plaintext}), code.PERMISSION_DENIED);
  await fails(other.decrypt({name: key, ciphertext: e.ciphertext, additionalAuthenticatedData: aad}), code.PERMISSION_DENIED);
});

test('rotation: a new version, made primary; the old one still decrypts until it is disabled', async () => {
  const plaintext = Buffer.from('rotate me');
  const [old] = await service.encrypt({name: key, plaintext});
  const [v2] = await keyadmin.createCryptoKeyVersion({parent: key, cryptoKeyVersion: {}});
  assert.equal(v2.name, `${key}/cryptoKeyVersions/2`);
  const [k] = await keyadmin.updateCryptoKeyPrimaryVersion({name: key, cryptoKeyVersionId: '2'});
  assert.equal(k.primary.name, v2.name);
  const [fresh] = await service.encrypt({name: key, plaintext});
  assert.equal(fresh.name, v2.name);
  const [d] = await service.decrypt({name: key, ciphertext: old.ciphertext});
  assert.equal(d.usedPrimary, false);
  assert.deepEqual(Buffer.from(d.plaintext), plaintext);

  const v1 = `${key}/cryptoKeyVersions/1`;
  await keyadmin.updateCryptoKeyVersion({cryptoKeyVersion: {name: v1, state: 'DISABLED'}, updateMask: {paths: ['state']}});
  await fails(service.decrypt({name: key, ciphertext: old.ciphertext}), code.FAILED_PRECONDITION, 'KEY_VERSION_DISABLED');
  const [gone] = await keyadmin.destroyCryptoKeyVersion({name: v1});
  assert.equal(gone.state, 'DESTROY_SCHEDULED');
  assert.ok(Number(gone.destroyTime.seconds) > Date.now() / 1000);
  const [back] = await keyadmin.restoreCryptoKeyVersion({name: v1});
  assert.equal(back.state, 'DISABLED');
  await fails(keyadmin.restoreCryptoKeyVersion({name: v1}), code.FAILED_PRECONDITION);
});

test('lists: the client pages by itself; filters and order are served or refused, never ignored', async () => {
  for (let i = 3; i <= 12; i++) await keyadmin.createCryptoKeyVersion({parent: key, cryptoKeyVersion: {}});
  const [all] = await keyadmin.listCryptoKeyVersions({parent: key, pageSize: 5, orderBy: 'name desc'});
  assert.deepEqual(all.map(v => Number(v.name.split('/').pop())), [12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1]);
  const [disabled] = await keyadmin.listCryptoKeyVersions({parent: key, filter: 'state=DISABLED'});
  assert.deepEqual(disabled.map(v => v.name), [`${key}/cryptoKeyVersions/1`]);
  const [keys] = await keyadmin.listCryptoKeys({parent: ring, filter: 'labels.env=test'});
  assert.equal(keys.length, 1);
  const [none] = await keyadmin.listCryptoKeys({parent: ring, filter: 'labels.env=prod'});
  assert.equal(none.length, 0);
  await fails(keyadmin.listCryptoKeys({parent: ring, filter: 'createTime>2020'}), code.INVALID_ARGUMENT);
});

test('labels are updated by field mask', async () => {
  const [k] = await keyadmin.updateCryptoKey({cryptoKey: {name: key, labels: {env: 'prod'}}, updateMask: {paths: ['labels']}});
  assert.deepEqual(k.labels, {env: 'prod'});
  await fails(keyadmin.updateCryptoKey({cryptoKey: {name: key, purpose: 'MAC'}, updateMask: {paths: ['purpose']}}), code.INVALID_ARGUMENT);
});

test('random bytes come from the token', async () => {
  const [r] = await service.generateRandomBytes({location, lengthBytes: 32, protectionLevel: 'HSM'});
  assert.equal(r.data.length, 32);
  assert.equal(Number(r.dataCrc32c.value), crc32c(r.data).value);
  await fails(service.generateRandomBytes({location, lengthBytes: 2000, protectionLevel: 'HSM'}), code.INVALID_ARGUMENT);
});

test('what is not served says so', async () => {
  const name = `${key}/cryptoKeyVersions/1`;
  await fails(service.asymmetricSign({name, digest: {sha256: Buffer.alloc(32)}}), code.UNIMPLEMENTED);
  await fails(service.macSign({name, data: Buffer.from('x')}), code.UNIMPLEMENTED);
  await fails(service.getPublicKey({name}), code.UNIMPLEMENTED);
  await fails(service.rawEncrypt({name, plaintext: Buffer.from('x')}), code.UNIMPLEMENTED);
  await fails(keyadmin.createImportJob({parent: ring, importJobId: 'j', importJob: {importMethod: 1, protectionLevel: 1}}), code.UNIMPLEMENTED);
});
