// Package natsauth makes credentials for NATS, and the configuration of a server that
// asks for them.
package natsauth

import (
	"fmt"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nkeys"
)

// Account is who signs for users; a server lets in the users of its own account.
type Account struct {
	operator, account nkeys.KeyPair
}

// New makes an account that no server knows yet.
func New() Account {
	return Account{must(nkeys.CreateOperator()), must(nkeys.CreateAccount())}
}

// Config is that of a server which lets in this account's users, and nobody else.
func (a Account) Config() string {
	operator := jwt.NewOperatorClaims(must(a.operator.PublicKey()))
	account := jwt.NewAccountClaims(must(a.account.PublicKey()))
	return fmt.Sprintf("operator: %s\nresolver: MEMORY\nresolver_preload: {%s: %s}\n",
		must(operator.Encode(a.operator)), account.Subject, must(account.Encode(a.operator)))
}

// Caller are the credentials of a new user who may do no more than ask: of a service's
// callers, whose connections have that name.
func (a Account) Caller(name, subjects string, lasts time.Duration) []byte {
	return a.user(lasts, func(p *jwt.Permissions) {
		p.Pub.Allow.Add(subjects)
		p.Sub.Allow.Add("_INBOX_" + name + ".>")
	})
}

// Responder are the credentials of a new user who may do no more than answer.
func (a Account) Responder(subjects string, lasts time.Duration) []byte {
	return a.user(lasts, func(p *jwt.Permissions) {
		p.Sub.Allow.Add(subjects)
		p.Resp = &jwt.ResponsePermission{MaxMsgs: 1, Expires: time.Minute}
	})
}

func (a Account) user(lasts time.Duration, permit func(*jwt.Permissions)) []byte {
	user := must(nkeys.CreateUser())
	claims := jwt.NewUserClaims(must(user.PublicKey()))
	claims.Expires = time.Now().Add(lasts).Unix()
	permit(&claims.Permissions)
	return must(jwt.FormatUserConfig(must(claims.Encode(a.account)), must(user.Seed())))
}

func must[T any](value T, err error) T {
	if err != nil {
		panic(err) // only where there is no randomness
	}
	return value
}
