package nats_test

import (
	"crypto/tls"
	"crypto/x509"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nkeys"
	"github.com/stretchr/testify/require"

	"github.com/jitney-bus/jitney/transport"
	"github.com/jitney-bus/jitney/transport/nats"
)

// file writes text into a file of the test and returns its path.
func file(t *testing.T, text []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "secret")
	require.NoError(t, os.WriteFile(path, text, 0o600))
	return path
}

// newKey makes a key pair and returns its public key and its seed too.
func newKey(t *testing.T, make func() (nkeys.KeyPair, error)) (kp nkeys.KeyPair, public string, seed []byte) {
	t.Helper()
	kp, err := make()
	require.NoError(t, err)
	public, err = kp.PublicKey()
	require.NoError(t, err)
	seed, err = kp.Seed()
	require.NoError(t, err)
	return kp, public, seed
}

// works publishes an event through a transport that is opened for it.
func works(t *testing.T, cfg nats.Config) {
	t.Helper()
	require.NoError(t, open(t, cfg).Publish(limit(t), event("a.done", "1", "x")))
}

// refused expects that the server takes none of cfgs, and that Open says so soon
// and without the secret.
func refused(t *testing.T, cfgs ...nats.Config) {
	t.Helper()
	for _, c := range cfgs {
		c.ConnectTimeout = time.Hour // what cannot help is not tried again
		_, err := nats.Open(limit(t), c)
		require.ErrorIs(t, err, transport.ErrPermission)
		require.NotContains(t, err.Error(), "s3cret")
	}
}

func TestOpenWithToken(t *testing.T) {
	s := startServer(t, &server.Options{JetStream: true, Authorization: "s3cret"})
	works(t, nats.Config{URL: s.ClientURL(), Token: "s3cret"})
	works(t, nats.Config{URL: "nats://s3cret@" + s.Addr().String()})
	refused(t, nats.Config{URL: s.ClientURL()}, nats.Config{URL: s.ClientURL(), Token: "s3cret2"})
}

func TestOpenWithNKey(t *testing.T) {
	_, public, seed := newKey(t, nkeys.CreateUser)
	_, _, other := newKey(t, nkeys.CreateUser)
	s := startServer(t, &server.Options{JetStream: true, Nkeys: []*server.NkeyUser{{Nkey: public}}})
	works(t, nats.Config{URL: s.ClientURL(), NKeyFile: file(t, seed)})
	refused(t, nats.Config{URL: s.ClientURL()}, nats.Config{URL: s.ClientURL(), NKeyFile: file(t, other)})
	for _, path := range []string{file(t, []byte("no seed")), filepath.Join(t.TempDir(), "absent")} {
		_, err := nats.Open(limit(t), nats.Config{URL: s.ClientURL(), NKeyFile: path})
		require.ErrorIs(t, err, transport.ErrInvalid)
		require.ErrorContains(t, err, "NKeyFile")
	}
}

// A credentials file has a JWT that an account signed whose own JWT an operator
// signed, and the seed of the user's key.
func TestOpenWithCredentialsFile(t *testing.T) {
	operator, operatorKey, _ := newKey(t, nkeys.CreateOperator)
	account, accountKey, _ := newKey(t, nkeys.CreateAccount)
	_, systemKey, _ := newKey(t, nkeys.CreateAccount)

	trusted := jwt.NewOperatorClaims(operatorKey)
	_, err := trusted.Encode(operator)
	require.NoError(t, err)
	accounts := &server.MemAccResolver{}
	for _, key := range []string{accountKey, systemKey} {
		claims := jwt.NewAccountClaims(key)
		if key == accountKey {
			claims.Limits.JetStreamLimits = jwt.JetStreamLimits{MemoryStorage: -1, DiskStorage: -1, Streams: -1, Consumer: -1}
		}
		text, err := claims.Encode(operator)
		require.NoError(t, err)
		require.NoError(t, accounts.Store(key, text))
	}
	s := startServer(t, &server.Options{JetStream: true, TrustedOperators: []*jwt.OperatorClaims{trusted},
		SystemAccount: systemKey, AccountResolver: accounts})

	credentials := func(signer nkeys.KeyPair) []byte {
		_, userKey, seed := newKey(t, nkeys.CreateUser)
		text, err := jwt.NewUserClaims(userKey).Encode(signer)
		require.NoError(t, err)
		creds, err := jwt.FormatUserConfig(text, seed)
		require.NoError(t, err)
		return creds
	}
	path := file(t, credentials(account))
	works(t, nats.Config{URL: s.ClientURL(), CredentialsFile: path})
	stranger, _, _ := newKey(t, nkeys.CreateAccount)
	refused(t, nats.Config{URL: s.ClientURL()}, nats.Config{URL: s.ClientURL(), CredentialsFile: file(t, credentials(stranger))})
}

func TestOpenWithTLS(t *testing.T) {
	certified := httptest.NewTLSServer(nil) // for its certificate
	certified.Close()
	pool := x509.NewCertPool()
	pool.AddCert(certified.Certificate())
	s := startServer(t, &server.Options{JetStream: true, TLS: true, TLSTimeout: 10,
		TLSConfig: &tls.Config{Certificates: certified.TLS.Certificates}})
	plain := "nats://" + s.Addr().String()
	works(t, nats.Config{URL: plain, TLS: &tls.Config{RootCAs: pool}})
	works(t, nats.Config{URL: "tls://" + s.Addr().String(), TLS: &tls.Config{RootCAs: pool}})

	// A certificate that nobody we trust has signed will not do in an hour either.
	for _, url := range []string{plain, "tls://" + s.Addr().String()} {
		_, err := nats.Open(limit(t), nats.Config{URL: url, TLS: &tls.Config{RootCAs: x509.NewCertPool()}, ConnectTimeout: time.Hour})
		require.ErrorIs(t, err, transport.ErrUnavailable)
		var unknown x509.UnknownAuthorityError
		require.ErrorAs(t, err, &unknown)
		require.ErrorContains(t, err, s.Addr().String())
	}
}

// The prefix keeps the replies of two roles apart.
func TestInboxPrefix(t *testing.T) {
	s := startServer(t, &server.Options{JetStream: true, Users: []*server.User{{Username: "u", Password: "p",
		Permissions: &server.Permissions{Subscribe: &server.SubjectPermission{Deny: []string{"_INBOX.>"}}}}}})
	cfg := nats.Config{URL: s.ClientURL(), User: "u", Password: "p", InboxPrefix: "_INBOX_mine"}
	tr := open(t, cfg)
	src, err := tr.Serve(limit(t), transport.Endpoint{Address: transport.Address{Name: "a.do"}})
	require.NoError(t, err)
	go func() {
		if r, err := src.Next(limit(t)); err == nil {
			_ = r.Reply(limit(t), &transport.Message{Body: []byte("ok")})
		}
	}()
	reply, err := tr.Request(limit(t), event("a.do", "1", "x"))
	require.NoError(t, err)
	require.Equal(t, "ok", string(reply.Body))
	works(t, cfg)

	cfg.InboxPrefix = ""
	_, err = nats.Open(limit(t), cfg)
	require.ErrorIs(t, err, transport.ErrPermission, "told at once, not after a wait")
	require.ErrorContains(t, err, "_INBOX.")
}
