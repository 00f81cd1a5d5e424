/*
 * What of OpenSSL the released program leaves out.
 *
 * A static libcrypto brings everything along: its default provider has tables of all algorithms, starting it up names
 * all ciphers and digests and all texts of errors, and reading a private key leads to certificates, CMS and an HTTP
 * client. For SSH none of that is needed, and the program travels to every machine.
 *
 * The definitions here stand in for such entries, so the linker has no reason to take the object files behind them.
 * They are weak: where OpenSSL's own object file comes in for another reason, OpenSSL's own definition is the one
 * that counts, and the program is only larger. A name that another version of OpenSSL does not know does no harm
 * either. What is left out is refused by OpenSSL as an algorithm that it does not know; nothing is computed
 * differently.
 *
 * Kept is what keys and connections need: AES (CBC, CTR, GCM) and 3DES, MD5, SHA-1, SHA-2, RIPEMD-160 and HMAC, RSA,
 * DSA, ECDSA, Ed25519, DH, ECDH and X25519, and keys in PEM, PKCS#8 (PBES1, PBES2, scrypt) and OpenSSH's format. Only
 * built into optimised programs (build.rs).
 */

#include <stddef.h>
#include <stdint.h>

#define WEAK __attribute__((weak))

typedef struct evp_cipher_st EVP_CIPHER;
typedef struct evp_md_st EVP_MD;
typedef struct ec_method_st EC_METHOD;
typedef struct ossl_init_settings_st OPENSSL_INIT_SETTINGS;

int OPENSSL_init_crypto(uint64_t options, const OPENSSL_INIT_SETTINGS *settings);

/* libssl is there for TLS, which this program has from elsewhere; openssl-sys starts both up. */
WEAK int OPENSSL_init_ssl(uint64_t options, const OPENSSL_INIT_SETTINGS *settings) {
    return OPENSSL_init_crypto(options, settings);
}

/* The ciphers and digests that an encrypted private key may name, instead of all. */
#define CIPHERS(X) \
    X(EVP_aes_128_cbc) X(EVP_aes_192_cbc) X(EVP_aes_256_cbc) X(EVP_aes_128_ctr) X(EVP_aes_192_ctr) \
    X(EVP_aes_256_ctr) X(EVP_aes_128_gcm) X(EVP_aes_256_gcm) X(EVP_des_ede3_cbc)
#define DIGESTS(X) \
    X(EVP_md5) X(EVP_sha1) X(EVP_sha224) X(EVP_sha256) X(EVP_sha384) X(EVP_sha512) X(EVP_ripemd160)

int EVP_add_cipher(const EVP_CIPHER *cipher);
int EVP_add_digest(const EVP_MD *digest);
#define DECLARE_CIPHER(name) const EVP_CIPHER *name(void);
#define DECLARE_DIGEST(name) const EVP_MD *name(void);
CIPHERS(DECLARE_CIPHER)
DIGESTS(DECLARE_DIGEST)

#define ADD_CIPHER(name) EVP_add_cipher(name());
#define ADD_DIGEST(name) EVP_add_digest(name());
WEAK void openssl_add_all_ciphers_int(void) { CIPHERS(ADD_CIPHER) }
WEAK void openssl_add_all_digests_int(void) { DIGESTS(ADD_DIGEST) }

/*
 * The arithmetic for three of NIST's curves alone, 0.26 MB of tables and code: the arithmetic for all curves does the
 * same, in constant time too, and one connection needs it two or three times.
 */
const EC_METHOD *EC_GFp_mont_method(void);
WEAK const EC_METHOD *EC_GFp_nistp224_method(void) { return EC_GFp_mont_method(); }
WEAK const EC_METHOD *EC_GFp_nistz256_method(void) { return EC_GFp_mont_method(); }
WEAK const EC_METHOD *EC_GFp_nistp521_method(void) { return EC_GFp_mont_method(); }

#define NOTHING(name) WEAK void name(void) {}
#define DONE(name) WEAK int name(void) { return 1; }
#define FAILS(name) WEAK int name(void) { return 0; }
#define NONE(name) WEAK void *name(void) { return NULL; }

/* Their precomputed tables, which are never there then. */
NONE(EC_nistp224_pre_comp_dup) NOTHING(EC_nistp224_pre_comp_free)
NONE(EC_nistp256_pre_comp_dup) NOTHING(EC_nistp256_pre_comp_free)
NONE(EC_nistz256_pre_comp_dup) NOTHING(EC_nistz256_pre_comp_free)
NONE(EC_nistp521_pre_comp_dup) NOTHING(EC_nistp521_pre_comp_free)

/* Curves over binary fields, X448 and Ed448: libssh2 knows none of them. */
NONE(EC_GF2m_simple_method)
FAILS(ossl_ec_GF2m_simple_set_compressed_coordinates)
FAILS(ossl_ec_GF2m_simple_point2oct)
FAILS(ossl_ec_GF2m_simple_oct2point)
FAILS(ossl_ed448_sign)
FAILS(ossl_ed448_verify)
FAILS(ossl_ed448_public_from_private)
FAILS(ossl_x448)
FAILS(ossl_x448_public_from_private)

/* The texts of OpenSSL's errors: libssh2 has its own. */
DONE(ossl_err_load_crypto_strings)

/*
 * The configuration file: its place would be that of the system this was built on, and its contents for another
 * version. And with it engines, jobs in the background, CMP.
 */
DONE(ossl_config_int)
DONE(ossl_no_config_int)
NOTHING(ossl_config_modules_free)
DONE(CONF_modules_load_file_ex)
NOTHING(OPENSSL_load_builtin_modules)
DONE(ENGINE_register_all_complete)
NOTHING(engine_load_afalg_int)
NOTHING(engine_load_dynamic_int)
NOTHING(engine_load_openssl_int)
NOTHING(engine_load_padlock_int)
DONE(async_init)
NOTHING(async_deinit)
NOTHING(OSSL_CMP_log_close)
NOTHING(ossl_store_cleanup_int)

/* What printing and writing keys and certificates would call. */
NONE(OSSL_ENCODER_CTX_new_for_pkey)
NOTHING(OSSL_ENCODER_CTX_free)
FAILS(OSSL_ENCODER_CTX_get_num_encoders)
FAILS(OSSL_ENCODER_CTX_set_cipher)
FAILS(OSSL_ENCODER_CTX_set_passphrase)
FAILS(OSSL_ENCODER_CTX_set_pem_password_cb)
FAILS(OSSL_ENCODER_to_bio)
FAILS(OSSL_ENCODER_to_data)
FAILS(ASN1_item_print)
FAILS(ECPKParameters_print)
FAILS(X509_signature_dump)
NOTHING(X509_SIG_INFO_set)
NONE(X509_gmtime_adj)
NONE(PKCS12_it)
NONE(d2i_PKCS8_bio)
FAILS(i2d_PKCS8_bio)
FAILS(i2d_PKCS8_PRIV_KEY_INFO_bio)

/* What only TLS asks for: its groups, and AES-CBC and HMAC in one. */
FAILS(ossl_prov_get_capabilities)
FAILS(ossl_cipher_capable_aes_cbc_hmac_sha1)
FAILS(ossl_cipher_capable_aes_cbc_hmac_sha256)

/* The functions of an algorithm (OSSL_DISPATCH, core_dispatch.h): none, so it is not offered. */
struct dispatch {
    int function_id;
    void (*function)(void);
};
#define WITHOUT(name) \
    extern const struct dispatch ossl_##name##_functions[1]; \
    WEAK const struct dispatch ossl_##name##_functions[1] = {{0, NULL}};

/* Ciphers, digests and MACs that SSH (as libssh2 speaks it) does not use. */
WITHOUT(blake2b512) WITHOUT(blake2s256) WITHOUT(blake2bmac) WITHOUT(blake2smac) WITHOUT(aes128cbc_hmac_sha1)
WITHOUT(aes128cbc_hmac_sha256) WITHOUT(aes256cbc_hmac_sha1) WITHOUT(aes256cbc_hmac_sha256) WITHOUT(aes128ccm)
WITHOUT(aes192ccm) WITHOUT(aes256ccm) WITHOUT(aes128ocb) WITHOUT(aes192ocb) WITHOUT(aes256ocb) WITHOUT(aes128siv)
WITHOUT(aes192siv) WITHOUT(aes256siv) WITHOUT(aes128wrap) WITHOUT(aes128wrapinv) WITHOUT(aes128wrappad)
WITHOUT(aes128wrappadinv) WITHOUT(aes192wrap) WITHOUT(aes192wrapinv) WITHOUT(aes192wrappad) WITHOUT(aes192wrappadinv)
WITHOUT(aes256wrap) WITHOUT(aes256wrapinv) WITHOUT(aes256wrappad) WITHOUT(aes256wrappadinv) WITHOUT(aes128xts)
WITHOUT(aes256xts) WITHOUT(aria128cbc) WITHOUT(aria128cfb1) WITHOUT(aria128cfb8) WITHOUT(aria128cfb)
WITHOUT(aria128ctr) WITHOUT(aria128ecb) WITHOUT(aria128ofb) WITHOUT(aria192cbc) WITHOUT(aria192cfb1)
WITHOUT(aria192cfb8) WITHOUT(aria192cfb) WITHOUT(aria192ctr) WITHOUT(aria192ecb) WITHOUT(aria192ofb)
WITHOUT(aria256cbc) WITHOUT(aria256cfb1) WITHOUT(aria256cfb8) WITHOUT(aria256cfb) WITHOUT(aria256ctr)
WITHOUT(aria256ecb) WITHOUT(aria256ofb) WITHOUT(aria128ccm) WITHOUT(aria192ccm) WITHOUT(aria256ccm)
WITHOUT(aria128gcm) WITHOUT(aria192gcm) WITHOUT(aria256gcm) WITHOUT(camellia128cbc_cts) WITHOUT(camellia128cbc)
WITHOUT(camellia128cfb1) WITHOUT(camellia128cfb8) WITHOUT(camellia128cfb) WITHOUT(camellia128ctr)
WITHOUT(camellia128ecb) WITHOUT(camellia128ofb) WITHOUT(camellia192cbc_cts) WITHOUT(camellia192cbc)
WITHOUT(camellia192cfb1) WITHOUT(camellia192cfb8) WITHOUT(camellia192cfb) WITHOUT(camellia192ctr)
WITHOUT(camellia192ecb) WITHOUT(camellia192ofb) WITHOUT(camellia256cbc_cts) WITHOUT(camellia256cbc)
WITHOUT(camellia256cfb1) WITHOUT(camellia256cfb8) WITHOUT(camellia256cfb) WITHOUT(camellia256ctr)
WITHOUT(camellia256ecb) WITHOUT(camellia256ofb) WITHOUT(chacha20) WITHOUT(chacha20_ossl_poly1305) WITHOUT(sm4128cbc)
WITHOUT(sm4128cfb128) WITHOUT(sm4128ctr) WITHOUT(sm4128ecb) WITHOUT(sm4128ofb128) WITHOUT(tdes_wrap_cbc) WITHOUT(cmac)
WITHOUT(gmac) WITHOUT(kmac128) WITHOUT(kmac256) WITHOUT(poly1305) WITHOUT(keccak_kmac_128) WITHOUT(keccak_kmac_256)
WITHOUT(sha3_224) WITHOUT(sha3_256) WITHOUT(sha3_384) WITHOUT(sha3_512) WITHOUT(shake_128) WITHOUT(shake_256)
WITHOUT(siphash) WITHOUT(sm3)

/* Derivation of keys for other protocols. */
WITHOUT(kdf_hkdf) WITHOUT(kdf_tls1_3_kdf) WITHOUT(kdf_kbkdf) WITHOUT(kdf_hkdf_keyexch) WITHOUT(kdf_scrypt_keyexch)
WITHOUT(kdf_tls1_prf_keyexch) WITHOUT(kdf_keymgmt) WITHOUT(kdf_krb5kdf) WITHOUT(kdf_sshkdf) WITHOUT(kdf_sskdf)
WITHOUT(kdf_x963_kdf) WITHOUT(kdf_tls1_prf) WITHOUT(kdf_x942_kdf)

/* Random numbers: CTR-DRBG is the one that is used. */
WITHOUT(drbg_hash) WITHOUT(drbg_ossl_hmac) WITHOUT(test_rng)

/* Keys and signatures of kinds that libssh2 does not know. */
WITHOUT(cmac_legacy_keymgmt) WITHOUT(mac_legacy_keymgmt) WITHOUT(mac_legacy_cmac_signature)
WITHOUT(mac_legacy_hmac_signature) WITHOUT(mac_legacy_poly1305_signature) WITHOUT(mac_legacy_siphash_signature)
WITHOUT(rsa_asym_kem) WITHOUT(sm2_asym_cipher) WITHOUT(sm2_signature)

/* Writing keys out: they are only read here. */
WITHOUT(dh_to_DH_der_encoder) WITHOUT(dh_to_DH_pem_encoder) WITHOUT(dh_to_EncryptedPrivateKeyInfo_der_encoder)
WITHOUT(dh_to_EncryptedPrivateKeyInfo_pem_encoder) WITHOUT(dh_to_PKCS3_der_encoder) WITHOUT(dh_to_PKCS3_pem_encoder)
WITHOUT(dh_to_PrivateKeyInfo_der_encoder) WITHOUT(dh_to_PrivateKeyInfo_pem_encoder)
WITHOUT(dh_to_SubjectPublicKeyInfo_der_encoder) WITHOUT(dh_to_SubjectPublicKeyInfo_pem_encoder)
WITHOUT(dh_to_type_specific_params_der_encoder) WITHOUT(dh_to_type_specific_params_pem_encoder)
WITHOUT(dhx_to_DHX_der_encoder) WITHOUT(dhx_to_DHX_pem_encoder) WITHOUT(dhx_to_EncryptedPrivateKeyInfo_der_encoder)
WITHOUT(dhx_to_EncryptedPrivateKeyInfo_pem_encoder) WITHOUT(dhx_to_PrivateKeyInfo_der_encoder)
WITHOUT(dhx_to_PrivateKeyInfo_pem_encoder) WITHOUT(dhx_to_SubjectPublicKeyInfo_der_encoder)
WITHOUT(dhx_to_SubjectPublicKeyInfo_pem_encoder) WITHOUT(dhx_to_X9_42_der_encoder) WITHOUT(dhx_to_X9_42_pem_encoder)
WITHOUT(dhx_to_type_specific_params_der_encoder) WITHOUT(dhx_to_type_specific_params_pem_encoder)
WITHOUT(dsa_to_DSA_der_encoder) WITHOUT(dsa_to_DSA_pem_encoder) WITHOUT(dsa_to_EncryptedPrivateKeyInfo_der_encoder)
WITHOUT(dsa_to_EncryptedPrivateKeyInfo_pem_encoder) WITHOUT(dsa_to_PrivateKeyInfo_der_encoder)
WITHOUT(dsa_to_PrivateKeyInfo_pem_encoder) WITHOUT(dsa_to_SubjectPublicKeyInfo_der_encoder)
WITHOUT(dsa_to_SubjectPublicKeyInfo_pem_encoder) WITHOUT(dsa_to_type_specific_der_encoder)
WITHOUT(dsa_to_type_specific_pem_encoder) WITHOUT(ec_to_EC_der_encoder) WITHOUT(ec_to_EC_pem_encoder)
WITHOUT(ec_to_EncryptedPrivateKeyInfo_der_encoder) WITHOUT(ec_to_EncryptedPrivateKeyInfo_pem_encoder)
WITHOUT(ec_to_PrivateKeyInfo_der_encoder) WITHOUT(ec_to_PrivateKeyInfo_pem_encoder)
WITHOUT(ec_to_SubjectPublicKeyInfo_der_encoder) WITHOUT(ec_to_SubjectPublicKeyInfo_pem_encoder)
WITHOUT(ec_to_X9_62_der_encoder) WITHOUT(ec_to_X9_62_pem_encoder) WITHOUT(ec_to_type_specific_no_pub_der_encoder)
WITHOUT(ec_to_type_specific_no_pub_pem_encoder) WITHOUT(ed25519_to_EncryptedPrivateKeyInfo_der_encoder)
WITHOUT(ed25519_to_EncryptedPrivateKeyInfo_pem_encoder) WITHOUT(ed25519_to_PrivateKeyInfo_der_encoder)
WITHOUT(ed25519_to_PrivateKeyInfo_pem_encoder) WITHOUT(ed25519_to_SubjectPublicKeyInfo_der_encoder)
WITHOUT(ed25519_to_SubjectPublicKeyInfo_pem_encoder) WITHOUT(ed448_to_EncryptedPrivateKeyInfo_der_encoder)
WITHOUT(ed448_to_EncryptedPrivateKeyInfo_pem_encoder) WITHOUT(ed448_to_PrivateKeyInfo_der_encoder)
WITHOUT(ed448_to_PrivateKeyInfo_pem_encoder) WITHOUT(ed448_to_SubjectPublicKeyInfo_der_encoder)
WITHOUT(ed448_to_SubjectPublicKeyInfo_pem_encoder) WITHOUT(rsa_to_EncryptedPrivateKeyInfo_der_encoder)
WITHOUT(rsa_to_EncryptedPrivateKeyInfo_pem_encoder) WITHOUT(rsa_to_PKCS1_der_encoder)
WITHOUT(rsa_to_PKCS1_pem_encoder) WITHOUT(rsa_to_PrivateKeyInfo_der_encoder)
WITHOUT(rsa_to_PrivateKeyInfo_pem_encoder) WITHOUT(rsa_to_RSA_der_encoder) WITHOUT(rsa_to_RSA_pem_encoder)
WITHOUT(rsa_to_SubjectPublicKeyInfo_der_encoder) WITHOUT(rsa_to_SubjectPublicKeyInfo_pem_encoder)
WITHOUT(rsa_to_type_specific_keypair_der_encoder) WITHOUT(rsa_to_type_specific_keypair_pem_encoder)
WITHOUT(rsapss_to_EncryptedPrivateKeyInfo_der_encoder) WITHOUT(rsapss_to_EncryptedPrivateKeyInfo_pem_encoder)
WITHOUT(rsapss_to_PKCS1_der_encoder) WITHOUT(rsapss_to_PKCS1_pem_encoder)
WITHOUT(rsapss_to_PrivateKeyInfo_der_encoder) WITHOUT(rsapss_to_PrivateKeyInfo_pem_encoder)
WITHOUT(rsapss_to_SubjectPublicKeyInfo_der_encoder) WITHOUT(rsapss_to_SubjectPublicKeyInfo_pem_encoder)
WITHOUT(sm2_to_EncryptedPrivateKeyInfo_der_encoder) WITHOUT(sm2_to_EncryptedPrivateKeyInfo_pem_encoder)
WITHOUT(sm2_to_PrivateKeyInfo_der_encoder) WITHOUT(sm2_to_PrivateKeyInfo_pem_encoder) WITHOUT(sm2_to_SM2_der_encoder)
WITHOUT(sm2_to_SM2_pem_encoder) WITHOUT(sm2_to_SubjectPublicKeyInfo_der_encoder)
WITHOUT(sm2_to_SubjectPublicKeyInfo_pem_encoder) WITHOUT(sm2_to_type_specific_no_pub_der_encoder)
WITHOUT(sm2_to_type_specific_no_pub_pem_encoder) WITHOUT(x25519_to_EncryptedPrivateKeyInfo_der_encoder)
WITHOUT(x25519_to_EncryptedPrivateKeyInfo_pem_encoder) WITHOUT(x25519_to_PrivateKeyInfo_der_encoder)
WITHOUT(x25519_to_PrivateKeyInfo_pem_encoder) WITHOUT(x25519_to_SubjectPublicKeyInfo_der_encoder)
WITHOUT(x25519_to_SubjectPublicKeyInfo_pem_encoder) WITHOUT(x448_to_EncryptedPrivateKeyInfo_der_encoder)
WITHOUT(x448_to_EncryptedPrivateKeyInfo_pem_encoder) WITHOUT(x448_to_PrivateKeyInfo_der_encoder)
WITHOUT(x448_to_PrivateKeyInfo_pem_encoder) WITHOUT(x448_to_SubjectPublicKeyInfo_der_encoder)
WITHOUT(x448_to_SubjectPublicKeyInfo_pem_encoder) WITHOUT(ec_to_blob_encoder) WITHOUT(sm2_to_blob_encoder)
WITHOUT(dsa_to_msblob_encoder) WITHOUT(dsa_to_pvk_encoder) WITHOUT(rsa_to_msblob_encoder) WITHOUT(rsa_to_pvk_encoder)
WITHOUT(dh_to_text_encoder) WITHOUT(dhx_to_text_encoder) WITHOUT(dsa_to_text_encoder) WITHOUT(ec_to_text_encoder)
WITHOUT(ed25519_to_text_encoder) WITHOUT(ed448_to_text_encoder) WITHOUT(rsa_to_text_encoder)
WITHOUT(rsapss_to_text_encoder) WITHOUT(sm2_to_text_encoder) WITHOUT(x25519_to_text_encoder)
WITHOUT(x448_to_text_encoder)

/* Reading Microsoft's kinds of key files, and stores of keys. */
WITHOUT(msblob_to_dsa_decoder) WITHOUT(msblob_to_rsa_decoder) WITHOUT(pvk_to_dsa_decoder) WITHOUT(pvk_to_rsa_decoder)
WITHOUT(file_store)
