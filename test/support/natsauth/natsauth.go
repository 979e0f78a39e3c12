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

// Role is something that a user may do.
type Role func(*jwt.Permissions)

// Caller may ask, as a service's callers do, whose connections have that name.
func Caller(name, subjects string) Role {
	return func(p *jwt.Permissions) {
		p.Pub.Allow.Add(subjects)
		p.Sub.Allow.Add("_INBOX_" + name + ".>")
	}
}

// Responder may answer.
func Responder(subjects string) Role {
	return func(p *jwt.Permissions) {
		p.Sub.Allow.Add(subjects)
		p.Resp = &jwt.ResponsePermission{MaxMsgs: 1, Expires: time.Minute}
	}
}

// User are the credentials of a new user, who may do no more than that.
func (a Account) User(lasts time.Duration, roles ...Role) []byte {
	user := must(nkeys.CreateUser())
	claims := jwt.NewUserClaims(must(user.PublicKey()))
	claims.Expires = time.Now().Add(lasts).Unix()
	for _, role := range roles {
		role(&claims.Permissions)
	}
	return must(jwt.FormatUserConfig(must(claims.Encode(a.account)), must(user.Seed())))
}

func must[T any](value T, err error) T {
	if err != nil {
		panic(err) // only where there is no randomness
	}
	return value
}
