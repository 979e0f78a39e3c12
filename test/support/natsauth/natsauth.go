// Package natsauth makes NATS credentials, and the configuration of a server that
// requires them.
package natsauth

import (
	"fmt"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nkeys"
)

// Account signs users. A server accepts the users of its account.
type Account struct {
	operator, account nkeys.KeyPair
}

// New makes an account.
func New() Account {
	return Account{must(nkeys.CreateOperator()), must(nkeys.CreateAccount())}
}

// Config is the configuration of a server that accepts only this account's users.
func (a Account) Config() string {
	operator := jwt.NewOperatorClaims(must(a.operator.PublicKey()))
	account := jwt.NewAccountClaims(must(a.account.PublicKey()))
	return fmt.Sprintf("operator: %s\nresolver: MEMORY\nresolver_preload: {%s: %s}\n",
		must(operator.Encode(a.operator)), account.Subject, must(account.Encode(a.operator)))
}

// Role adds permissions to a user.
type Role func(*jwt.Permissions)

// Caller may send requests to the subjects. name is the name of its connections.
func Caller(name, subjects string) Role {
	return func(p *jwt.Permissions) {
		p.Pub.Allow.Add(subjects)
		p.Sub.Allow.Add("_INBOX_" + name + ".>")
	}
}

// Responder may respond to requests on the subjects.
func Responder(subjects string) Role {
	return func(p *jwt.Permissions) {
		p.Sub.Allow.Add(subjects)
		p.Resp = &jwt.ResponsePermission{MaxMsgs: 1, Expires: time.Minute}
	}
}

// User makes the credentials of a new user with the roles.
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
		panic(err) // fails only without a source of randomness
	}
	return value
}
