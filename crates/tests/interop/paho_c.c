/* Interop driver of the Eclipse Paho C client (synchronous interface).
 *
 * Build: cc -o paho_c paho_c.c -lpaho-mqtt3c. Owns: one client of the library, which keeps its state when it connects
 * again. Limits: LINE_BYTES_MAX for a request, FIELDS_MAX fields. See: docs/interop.md.
 */
#include <MQTTClient.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LINE_BYTES_MAX (1 << 20)
#define FIELDS_MAX 32
/* Below the runner's own deadline, so that it hears the reason. */
#define WAIT_MS_MAX 12000

struct request {
    char *word;
    char *keys[FIELDS_MAX];
    char *values[FIELDS_MAX];
    int count;
};

static MQTTClient client;
static int mqtt5;

static int digit(int c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    return (c | 32) - 'a' + 10;
}

/* Takes the percent-encoding out, in place. */
static void decode(char *text)
{
    char *to = text;
    for (; *text; text++) {
        if (*text == '%' && text[1] && text[2]) {
            *to++ = (char)(digit(text[1]) * 16 + digit(text[2]));
            text += 2;
        } else {
            *to++ = *text;
        }
    }
    *to = 0;
}

/* Writes bytes percent-encoded. */
static void put(const char *bytes, size_t length)
{
    for (size_t at = 0; at < length; at++) {
        unsigned char c = (unsigned char)bytes[at];
        if ((c | 32) >= 'a' && (c | 32) <= 'z')
            putchar(c);
        else if (strchr("0123456789/-._,:", c) && c)
            putchar(c);
        else
            printf("%%%02X", c);
    }
}

static void put_hex(const char *bytes, size_t length)
{
    for (size_t at = 0; at < length; at++)
        printf("%02x", (unsigned char)bytes[at]);
}

static void put_field(const char *key, const char *bytes, size_t length)
{
    printf(" %s=", key);
    put(bytes, length);
}

/* Writes a whole line whose values need no encoding. */
static void answer(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    flockfile(stdout);
    vprintf(format, arguments);
    putchar('\n');
    fflush(stdout);
    funlockfile(stdout);
    va_end(arguments);
}

static void answer_error(const char *what, int code)
{
    char text[200];
    snprintf(text, sizeof text, "%s: %d %s", what, code, MQTTClient_strerror(code) ? MQTTClient_strerror(code) : "");
    flockfile(stdout);
    printf("error");
    put_field("why", text, strlen(text));
    putchar('\n');
    fflush(stdout);
    funlockfile(stdout);
}

static void parse(char *line, struct request *request)
{
    char *rest = NULL;
    line[strcspn(line, "\n")] = 0;
    request->word = strtok_r(line, " ", &rest);
    request->count = 0;
    for (char *part; request->count < FIELDS_MAX && (part = strtok_r(NULL, " ", &rest));) {
        char *value = strchr(part, '=');
        if (!value)
            continue;
        *value++ = 0;
        decode(value);
        request->keys[request->count] = part;
        request->values[request->count++] = value;
    }
}

static const char *get(const struct request *request, const char *key)
{
    for (int at = 0; at < request->count; at++)
        if (!strcmp(request->keys[at], key))
            return request->values[at];
    return NULL;
}

static int number(const struct request *request, const char *key)
{
    const char *value = get(request, key);
    return value ? atoi(value) : 0;
}

static void put_properties(MQTTProperties *properties)
{
    for (int at = 0; at < properties->count; at++) {
        MQTTProperty *property = &properties->array[at];
        MQTTLenString *data = &property->value.data;
        switch (property->identifier) {
        case MQTTPROPERTY_CODE_USER_PROPERTY:
            put_field("user", data->data, (size_t)data->len);
            putchar(':');
            put(property->value.value.data, (size_t)property->value.value.len);
            break;
        case MQTTPROPERTY_CODE_CONTENT_TYPE:
            put_field("content_type", data->data, (size_t)data->len);
            break;
        case MQTTPROPERTY_CODE_RESPONSE_TOPIC:
            put_field("response_topic", data->data, (size_t)data->len);
            break;
        case MQTTPROPERTY_CODE_CORRELATION_DATA:
            printf(" correlation=");
            put_hex(data->data, (size_t)data->len);
            break;
        case MQTTPROPERTY_CODE_MESSAGE_EXPIRY_INTERVAL:
            printf(" expiry=%u", property->value.integer4);
            break;
        case MQTTPROPERTY_CODE_SUBSCRIPTION_IDENTIFIER:
            printf(" identifier=%u", property->value.integer4);
            break;
        default:
            break;
        }
    }
}

static int arrived(void *context, char *topic, int topic_length, MQTTClient_message *message)
{
    (void)context;
    flockfile(stdout);
    printf("message");
    put_field("topic", topic, topic_length ? (size_t)topic_length : strlen(topic));
    put_field("payload", message->payload, (size_t)message->payloadlen);
    printf(" qos=%d retain=%d", message->qos, message->retained);
    if (mqtt5)
        put_properties(&message->properties);
    putchar('\n');
    fflush(stdout);
    funlockfile(stdout);
    MQTTClient_freeMessage(&message);
    MQTTClient_free(topic);
    return 1;
}

static void lost(void *context, char *cause)
{
    (void)context;
    (void)cause;
    answer("lost");
}

static void add_integer(MQTTProperties *properties, enum MQTTPropertyCodes code, int value)
{
    MQTTProperty property = {.identifier = code};
    property.value.integer4 = (unsigned)value;
    MQTTProperties_add(properties, &property);
}

static void add_bytes(MQTTProperties *properties, enum MQTTPropertyCodes code, const char *bytes, size_t length)
{
    MQTTProperty property = {.identifier = code};
    property.value.data.data = (char *)bytes;
    property.value.data.len = (int)length;
    MQTTProperties_add(properties, &property);
}

static int create(const struct request *request, const char *uri)
{
    MQTTClient_createOptions options = MQTTClient_createOptions_initializer;
    mqtt5 = !strcmp(get(request, "version"), "5");
    options.MQTTVersion = mqtt5 ? MQTTVERSION_5 : MQTTVERSION_3_1_1;
    int code = MQTTClient_createWithOptions(&client, uri, get(request, "id"), MQTTCLIENT_PERSISTENCE_NONE, NULL, &options);
    if (code == MQTTCLIENT_SUCCESS)
        code = MQTTClient_setCallbacks(client, NULL, lost, arrived, NULL);
    return code;
}

static void do_connect(const struct request *request)
{
    MQTTClient_connectOptions for_3 = MQTTClient_connectOptions_initializer;
    MQTTClient_connectOptions for_5 = MQTTClient_connectOptions_initializer5;
    MQTTClient_willOptions will = MQTTClient_willOptions_initializer;
    MQTTProperties connect_properties = MQTTProperties_initializer;
    MQTTProperties will_properties = MQTTProperties_initializer;
    const char *scheme = !strcmp(get(request, "transport"), "websocket") ? "ws" : "tcp";
    char uri[200];
    char *uris[] = {uri};
    int clean = number(request, "clean");
    int code;

    snprintf(uri, sizeof uri, "%s://%s:%s%s", scheme, get(request, "host"), get(request, "port"),
             scheme[0] == 'w' ? "/mqtt" : "");
    if (!client && (code = create(request, uri)) != MQTTCLIENT_SUCCESS) {
        answer_error("create", code);
        return;
    }
    MQTTClient_connectOptions *options = mqtt5 ? &for_5 : &for_3;
    options->serverURIs = uris;
    options->serverURIcount = 1;
    options->connectTimeout = WAIT_MS_MAX / 1000;
    options->keepAliveInterval = 30;
    if (mqtt5)
        options->cleanstart = clean;
    else {
        options->cleansession = clean;
        options->MQTTVersion = MQTTVERSION_3_1_1;
    }
    if (get(request, "will_topic")) {
        will.topicName = get(request, "will_topic");
        will.message = get(request, "will_payload");
        will.qos = number(request, "will_qos");
        options->will = &will;
        add_integer(&will_properties, MQTTPROPERTY_CODE_WILL_DELAY_INTERVAL, number(request, "will_delay"));
    }
    if (mqtt5) {
        add_integer(&connect_properties, MQTTPROPERTY_CODE_SESSION_EXPIRY_INTERVAL, number(request, "expiry"));
        MQTTResponse response =
            MQTTClient_connect5(client, options, &connect_properties, options->will ? &will_properties : NULL);
        code = response.reasonCode;
        MQTTResponse_free(response);
    } else {
        code = MQTTClient_connect(client, options);
    }
    MQTTProperties_free(&connect_properties);
    MQTTProperties_free(&will_properties);
    if (code != MQTTCLIENT_SUCCESS)
        answer_error("connect", code);
    else if (mqtt5)
        /* Version 1.3 returns 0 here with MQTT 5, whatever CONNACK says. */
        answer("connected present=unknown");
    else
        answer("connected present=%d", options->returned.sessionPresent);
}

static void do_subscribe(const struct request *request)
{
    const char *filter = get(request, "filter");
    int qos = number(request, "qos"), code = qos;
    if (mqtt5) {
        MQTTProperties properties = MQTTProperties_initializer;
        if (get(request, "identifier"))
            add_integer(&properties, MQTTPROPERTY_CODE_SUBSCRIPTION_IDENTIFIER, number(request, "identifier"));
        MQTTResponse response = MQTTClient_subscribe5(client, filter, qos, NULL, &properties);
        code = response.reasonCode;
        MQTTResponse_free(response);
        MQTTProperties_free(&properties);
    } else {
        /* The granted QoS comes back in the argument; 0x80 is a failure. */
        int granted = qos;
        code = MQTTClient_subscribeMany(client, 1, (char *const[]){(char *)filter}, &granted);
        if (code == MQTTCLIENT_SUCCESS)
            code = granted;
    }
    if (code < 0)
        answer_error("subscribe", code);
    else
        answer("subscribed reason=%d", code);
}

static void add_publish_properties(MQTTProperties *properties, const struct request *request)
{
    unsigned char correlation[100];
    for (int at = 0; at < request->count; at++) {
        char *key = request->keys[at], *value = request->values[at];
        if (!strcmp(key, "user")) {
            char *colon = strchr(value, ':');
            MQTTProperty property = {.identifier = MQTTPROPERTY_CODE_USER_PROPERTY};
            property.value.data.data = value;
            property.value.data.len = (int)(colon - value);
            property.value.value.data = colon + 1;
            property.value.value.len = (int)strlen(colon + 1);
            MQTTProperties_add(properties, &property);
        } else if (!strcmp(key, "content_type"))
            add_bytes(properties, MQTTPROPERTY_CODE_CONTENT_TYPE, value, strlen(value));
        else if (!strcmp(key, "response_topic"))
            add_bytes(properties, MQTTPROPERTY_CODE_RESPONSE_TOPIC, value, strlen(value));
        else if (!strcmp(key, "correlation")) {
            size_t length = strlen(value) / 2;
            for (size_t byte = 0; byte < length && byte < sizeof correlation; byte++)
                correlation[byte] = (unsigned char)(digit(value[2 * byte]) * 16 + digit(value[2 * byte + 1]));
            add_bytes(properties, MQTTPROPERTY_CODE_CORRELATION_DATA, (char *)correlation, length);
        } else if (!strcmp(key, "expiry"))
            add_integer(properties, MQTTPROPERTY_CODE_MESSAGE_EXPIRY_INTERVAL, atoi(value));
    }
}

static void do_publish(const struct request *request)
{
    MQTTClient_message message = MQTTClient_message_initializer;
    MQTTClient_deliveryToken token;
    const char *payload = get(request, "payload");
    int code;
    message.payload = (void *)payload;
    message.payloadlen = (int)strlen(payload);
    message.qos = number(request, "qos");
    message.retained = number(request, "retain");
    if (mqtt5) {
        add_publish_properties(&message.properties, request);
        MQTTResponse response = MQTTClient_publishMessage5(client, get(request, "topic"), &message, &token);
        code = response.reasonCode;
        MQTTResponse_free(response);
        MQTTProperties_free(&message.properties);
    } else {
        code = MQTTClient_publishMessage(client, get(request, "topic"), &message, &token);
    }
    if (code == MQTTCLIENT_SUCCESS)
        code = MQTTClient_waitForCompletion(client, token, WAIT_MS_MAX);
    if (code != MQTTCLIENT_SUCCESS)
        answer_error("publish", code);
    else
        answer("published");
}

static void do_disconnect(void)
{
    int code = mqtt5 ? MQTTClient_disconnect5(client, WAIT_MS_MAX, MQTTREASONCODE_NORMAL_DISCONNECTION, NULL)
                     : MQTTClient_disconnect(client, WAIT_MS_MAX);
    if (code != MQTTCLIENT_SUCCESS)
        answer_error("disconnect", code);
    else
        answer("disconnected");
}

int main(void)
{
    static char line[LINE_BYTES_MAX];
    const char *version = "of unknown version";
    MQTTClient_nameValue *about = MQTTClient_getVersionInfo();
    for (; about && about->name; about++)
        if (!strcmp(about->name, "Version"))
            version = about->value;
    answer("hello version=%s can=3.1.1,5,websocket,binary,keeps-state", version);
    while (fgets(line, sizeof line, stdin)) {
        struct request request;
        parse(line, &request);
        if (!strcmp(request.word, "connect"))
            do_connect(&request);
        else if (!strcmp(request.word, "subscribe"))
            do_subscribe(&request);
        else if (!strcmp(request.word, "publish"))
            do_publish(&request);
        else if (!strcmp(request.word, "disconnect"))
            do_disconnect();
    }
    return 0;
}
